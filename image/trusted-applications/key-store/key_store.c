/*
 * Keeps what must outlive a factory reset and stay secret from the system: the version floor, the digest of the factory document and
 * the key of the state. Never lowers the floor, and never tells the key of the state after the initrd was left.
 *
 * All of it is one record in OP-TEE's secure storage, which replaces it whole or not at all when power fails.
 */
#include <string_ext.h>
#include <tee_internal_api.h>

#include "key_store.h"

#define WORDS 8

#define RECORD_FORMAT 1
#define HAS_FACTORY (1U << 0)
#define HAS_STATE_KEY (1U << 1)

struct record {
	uint32_t format;
	uint32_t has;
	uint32_t floor;
	uint32_t factory[WORDS];
	uint32_t state_key[WORDS];
};

static const char record_name[] = "record";

/* Set when the initrd is left; the instance lives until the next boot. */
static bool initrd_left;

#define NOTHING TEE_PARAM_TYPES(TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE)
#define ONE_IN TEE_PARAM_TYPES(TEE_PARAM_TYPE_VALUE_INPUT, TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE)
#define ONE_OUT TEE_PARAM_TYPES(TEE_PARAM_TYPE_VALUE_OUTPUT, TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE)
#define FOUR_IN TEE_PARAM_TYPES(TEE_PARAM_TYPE_VALUE_INPUT, TEE_PARAM_TYPE_VALUE_INPUT, \
				TEE_PARAM_TYPE_VALUE_INPUT, TEE_PARAM_TYPE_VALUE_INPUT)
#define FOUR_OUT TEE_PARAM_TYPES(TEE_PARAM_TYPE_VALUE_OUTPUT, TEE_PARAM_TYPE_VALUE_OUTPUT, \
				 TEE_PARAM_TYPE_VALUE_OUTPUT, TEE_PARAM_TYPE_VALUE_OUTPUT)

static void give(const uint32_t words[WORDS], TEE_Param params[TEE_NUM_PARAMS])
{
	for (size_t n = 0; n < TEE_NUM_PARAMS; n++) {
		params[n].value.a = words[2 * n];
		params[n].value.b = words[2 * n + 1];
	}
}

static void take(const TEE_Param params[TEE_NUM_PARAMS], uint32_t words[WORDS])
{
	for (size_t n = 0; n < TEE_NUM_PARAMS; n++) {
		words[2 * n] = params[n].value.a;
		words[2 * n + 1] = params[n].value.b;
	}
}

static TEE_Result open_record(uint32_t access, TEE_ObjectHandle *object)
{
	return TEE_OpenPersistentObject(TEE_STORAGE_PRIVATE, record_name, sizeof(record_name) - 1, access, object);
}

static TEE_Result read_record(struct record *record)
{
	TEE_ObjectHandle object = TEE_HANDLE_NULL;
	size_t count = 0;
	TEE_Result result = open_record(TEE_DATA_FLAG_ACCESS_READ, &object);

	if (result != TEE_SUCCESS)
		return result;
	result = TEE_ReadObjectData(object, record, sizeof(*record), &count);
	TEE_CloseObject(object);
	if (result != TEE_SUCCESS)
		return result;
	if (count != sizeof(*record) || record->format != RECORD_FORMAT ||
	    (record->has & ~(HAS_FACTORY | HAS_STATE_KEY)))
		return TEE_ERROR_CORRUPT_OBJECT;
	return TEE_SUCCESS;
}

static TEE_Result write_record(const struct record *record)
{
	TEE_ObjectHandle object = TEE_HANDLE_NULL;
	TEE_Result result = open_record(TEE_DATA_FLAG_ACCESS_READ | TEE_DATA_FLAG_ACCESS_WRITE, &object);

	if (result != TEE_SUCCESS)
		return result;
	result = TEE_WriteObjectData(object, record, sizeof(*record));
	TEE_CloseObject(object);
	return result;
}

/* Without the flag to overwrite, so a second one is TEE_ERROR_ACCESS_CONFLICT. */
static TEE_Result make_record(void)
{
	const struct record record = { .format = RECORD_FORMAT };
	TEE_ObjectHandle object = TEE_HANDLE_NULL;
	TEE_Result result = TEE_CreatePersistentObject(TEE_STORAGE_PRIVATE, record_name, sizeof(record_name) - 1,
						       TEE_DATA_FLAG_ACCESS_READ, TEE_HANDLE_NULL, &record,
						       sizeof(record), &object);

	if (result == TEE_SUCCESS)
		TEE_CloseObject(object);
	return result;
}

static TEE_Result raise_floor(struct record *record, uint32_t floor)
{
	if (floor <= record->floor)
		return TEE_SUCCESS;
	record->floor = floor;
	return write_record(record);
}

static TEE_Result record_factory(struct record *record, const TEE_Param params[TEE_NUM_PARAMS])
{
	uint32_t digest[WORDS] = { };

	take(params, digest);
	if (record->has & HAS_FACTORY)
		return TEE_MemCompare(record->factory, digest, sizeof(digest)) ? TEE_ERROR_ACCESS_CONFLICT : TEE_SUCCESS;
	TEE_MemMove(record->factory, digest, sizeof(digest));
	record->has |= HAS_FACTORY;
	return write_record(record);
}

static TEE_Result new_state_key(struct record *record)
{
	TEE_GenerateRandom(record->state_key, sizeof(record->state_key));
	record->has |= HAS_STATE_KEY;
	return write_record(record);
}

/* What is asked of a record that there is. */
static TEE_Result ask(struct record *record, uint32_t command, TEE_Param params[TEE_NUM_PARAMS])
{
	TEE_Result result = TEE_SUCCESS;

	switch (command) {
	case FLOOR:
		params[0].value.a = record->floor;
		params[0].value.b = 0;
		return TEE_SUCCESS;
	case RAISE_FLOOR:
		return raise_floor(record, params[0].value.a);
	case FACTORY:
		if (!(record->has & HAS_FACTORY))
			return TEE_ERROR_NO_DATA;
		give(record->factory, params);
		return TEE_SUCCESS;
	case RECORD_FACTORY:
		return record_factory(record, params);
	case NEW_STATE_KEY:
		result = new_state_key(record);
		if (result == TEE_SUCCESS)
			give(record->state_key, params);
		return result;
	case STATE_KEY:
		if (!(record->has & HAS_STATE_KEY))
			return TEE_ERROR_NO_DATA;
		give(record->state_key, params);
		return TEE_SUCCESS;
	default:
		return TEE_ERROR_NOT_SUPPORTED;
	}
}

/* The types of the parameters that a command takes. */
static bool types_of(uint32_t command, uint32_t *types)
{
	switch (command) {
	case MAKE_RECORD:
	case LEAVE_INITRD:
		*types = NOTHING;
		return true;
	case FLOOR:
		*types = ONE_OUT;
		return true;
	case RAISE_FLOOR:
		*types = ONE_IN;
		return true;
	case RECORD_FACTORY:
		*types = FOUR_IN;
		return true;
	case FACTORY:
	case NEW_STATE_KEY:
	case STATE_KEY:
		*types = FOUR_OUT;
		return true;
	default:
		return false;
	}
}

static bool only_in_initrd(uint32_t command)
{
	return command == MAKE_RECORD || command == NEW_STATE_KEY || command == STATE_KEY;
}

TEE_Result TA_InvokeCommandEntryPoint(void *session, uint32_t command, uint32_t types,
				      TEE_Param params[TEE_NUM_PARAMS])
{
	struct record record = { };
	uint32_t expected = 0;
	TEE_Result result = TEE_SUCCESS;

	(void)session;
	if (!types_of(command, &expected))
		return TEE_ERROR_NOT_SUPPORTED;
	if (types != expected)
		return TEE_ERROR_BAD_PARAMETERS;
	if (command == LEAVE_INITRD) {
		initrd_left = true;
		return TEE_SUCCESS;
	}
	if (only_in_initrd(command) && initrd_left)
		return TEE_ERROR_ACCESS_DENIED;
	if (command == MAKE_RECORD)
		return make_record();
	result = read_record(&record);
	if (result == TEE_SUCCESS)
		result = ask(&record, command, params);
	memzero_explicit(&record, sizeof(record));
	return result;
}

/* The kernel tells who asks, and only its root is answered. */
TEE_Result TA_OpenSessionEntryPoint(uint32_t types, TEE_Param params[TEE_NUM_PARAMS], void **session)
{
	const TEE_UUID root = ROOT_UUID;
	TEE_Identity client = { };
	TEE_Result result = TEE_GetPropertyAsIdentity(TEE_PROPSET_CURRENT_CLIENT, "gpd.client.identity", &client);

	(void)params;
	*session = NULL;
	if (result != TEE_SUCCESS)
		return result;
	if (types != NOTHING)
		return TEE_ERROR_BAD_PARAMETERS;
	if (client.login != TEE_LOGIN_USER || TEE_MemCompare(&client.uuid, &root, sizeof(root)))
		return TEE_ERROR_ACCESS_DENIED;
	return TEE_SUCCESS;
}

void TA_CloseSessionEntryPoint(void *session)
{
	(void)session;
}

TEE_Result TA_CreateEntryPoint(void)
{
	return TEE_SUCCESS;
}

void TA_DestroyEntryPoint(void)
{
}
