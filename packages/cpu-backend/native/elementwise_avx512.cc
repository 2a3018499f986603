#include "elementwise_body.h"
