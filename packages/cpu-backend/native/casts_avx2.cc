#include "casts_body.h"
