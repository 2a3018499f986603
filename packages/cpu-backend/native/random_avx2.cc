#include "random.inl"
