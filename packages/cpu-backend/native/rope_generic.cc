#include "rope.inl"
