#include "norms_body.h"
