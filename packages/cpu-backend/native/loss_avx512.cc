#include "loss.inl"
