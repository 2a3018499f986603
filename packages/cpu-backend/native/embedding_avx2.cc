#include "embedding.inl"
