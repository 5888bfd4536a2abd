/*
 * What OP-TEE must know before it starts the key store.
 */
#ifndef USER_TA_HEADER_DEFINES_H
#define USER_TA_HEADER_DEFINES_H

#include "key_store.h"

#define TA_UUID KEY_STORE_UUID

/* One instance from the first session to the next boot, and none in its place if it crashes: what it refuses, it refuses for good. */
#define TA_FLAGS (TA_FLAG_SINGLE_INSTANCE | TA_FLAG_MULTI_SESSION | \
		  TA_FLAG_INSTANCE_KEEP_ALIVE | TA_FLAG_INSTANCE_KEEP_CRASHED)
#define TA_STACK_SIZE (4 * 1024)
#define TA_DATA_SIZE (16 * 1024)
#define TA_VERSION "1.0"
#define TA_DESCRIPTION "Key store of Mbed Linux OS"

#endif
