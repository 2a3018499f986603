#include "adamw_body.h"
