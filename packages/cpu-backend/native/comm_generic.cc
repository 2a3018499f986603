#include "comm_body.h"
