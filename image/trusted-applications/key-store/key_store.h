/*
 * The commands of the key store, as `device/tee/src/key_store.rs` sends them. Described in docs/formats/key-store.md.
 */
#ifndef KEY_STORE_H
#define KEY_STORE_H

/* 56ba3c79-ccd8-4e5d-b23f-ac601a89684d */
#define KEY_STORE_UUID \
	{ 0x56ba3c79, 0xccd8, 0x4e5d, \
	  { 0xb2, 0x3f, 0xac, 0x60, 0x1a, 0x89, 0x68, 0x4d } }

/*
 * The kernel's name of its user root: version 5 of `uid=0` in the name space of the driver
 * (drivers/tee/tee_core.c, tee_session_calc_client_uuid).
 */
#define ROOT_UUID \
	{ 0xef0180a3, 0x13f3, 0x5d1c, \
	  { 0xb7, 0xf5, 0x88, 0x8c, 0x0e, 0x21, 0x05, 0x9a } }

/*
 * A parameter holds two words of 32 bits; a digest or a key are eight words, lowest byte first, in four parameters. So no command
 * needs memory that both worlds see.
 */
enum command {
	/* Makes the record of a new device. Refused once there is one. */
	MAKE_RECORD = 0,
	/* Tells the floor: first word out. */
	FLOOR = 1,
	/* Raises the floor: first word in. A lower one changes nothing. */
	RAISE_FLOOR = 2,
	/* Tells the digest of the factory document: eight words out. */
	FACTORY = 3,
	/* Records that digest, once: eight words in. */
	RECORD_FACTORY = 4,
	/* Makes a new key for the state in place of an earlier one: eight words out. */
	NEW_STATE_KEY = 5,
	/* Tells the key of the state: eight words out. */
	STATE_KEY = 6,
	/* Refuses MAKE_RECORD, NEW_STATE_KEY and STATE_KEY until the next boot. */
	LEAVE_INITRD = 7,
};

#endif
