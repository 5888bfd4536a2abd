/*
 * Asks the key store in the TEE from inside of a machine under test: `ask_key_store COMMAND [WORD]`. It shares no code with the
 * product, and needs no library, so that it is small enough to be typed in at a serial port.
 */
#include <linux/tee.h>
#include <stddef.h>
#include <stdint.h>

#define DEVICE "/dev/tee0"
#define WORDS 8

static long syscall4(long number, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

/* Numbers of the architecture's system calls. */
static long open_device(void) { return syscall4(56, -100, (long)DEVICE, 2, 0); }
static long ioctl(long file, unsigned long code, void *argument) { return syscall4(29, file, (long)code, (long)argument, 0); }
static void print(const char *text, size_t length) { syscall4(64, 1, (long)text, (long)length, 0); }
static void leave(long status) { syscall4(93, status, 0, 0, 0); }

static void print_hex(uint32_t value)
{
	char text[9];

	for (int n = 7; n >= 0; n--, value >>= 4)
		text[n] = "0123456789abcdef"[value & 15];
	text[8] = ' ';
	print(text, sizeof(text));
}

static uint32_t number(const char *text)
{
	uint32_t value = 0;

	while (text && *text >= '0' && *text <= '9')
		value = value * 10 + (uint32_t)(*text++ - '0');
	return value;
}

/* Parameters as docs/formats/key-store.md has them for each command. */
static const uint64_t first_of[] = { 0, 2, 1, 2, 1, 2, 2, 0 };
static const uint64_t others_of[] = { 0, 0, 0, 2, 1, 2, 2, 0 };

static void set(struct tee_ioctl_param *parameters, uint32_t command, uint32_t word)
{
	for (int n = 0; n < 4; n++) {
		parameters[n].attr = n ? others_of[command] : first_of[command];
		parameters[n].a = parameters[n].attr == 1 ? word : 0;
	}
}

static struct {
	struct tee_ioctl_open_session_arg arg;
	struct tee_ioctl_param parameters[4];
} opened = {
	.arg = {
		.uuid = { 0x56, 0xba, 0x3c, 0x79, 0xcc, 0xd8, 0x4e, 0x5d, 0xb2, 0x3f, 0xac, 0x60, 0x1a, 0x89, 0x68, 0x4d },
		.clnt_login = TEE_IOCTL_LOGIN_USER,
		.num_params = 4,
	},
};

static struct {
	struct tee_ioctl_invoke_arg arg;
	struct tee_ioctl_param parameters[4];
} asked = { .arg = { .num_params = 4 } };

/* Prints the result, and the words of an answer. */
void start(long *stack)
{
	uint32_t command = stack[0] > 1 ? number((const char *)stack[2]) : WORDS;
	uint32_t word = stack[0] > 2 ? number((const char *)stack[3]) : 0;
	struct tee_ioctl_buf_data open = { (uintptr_t)&opened, sizeof(opened) };
	struct tee_ioctl_buf_data ask = { (uintptr_t)&asked, sizeof(asked) };
	long device = open_device();

	if (command >= WORDS || device < 0 || ioctl(device, TEE_IOC_OPEN_SESSION, &open))
		leave(2);
	if (opened.arg.ret) {
		print_hex(opened.arg.ret);
		print("at the door\n", 12);
		leave(1);
	}
	asked.arg.func = command;
	asked.arg.session = opened.arg.session;
	set(asked.parameters, command, word);
	if (ioctl(device, TEE_IOC_INVOKE, &ask))
		leave(2);
	print_hex(asked.arg.ret);
	if (asked.arg.ret == 0)
		print_hex((uint32_t)asked.parameters[0].a);
	print("\n", 1);
	leave(0);
}

__asm__(".global _start\n_start: mov x0, sp\n b start\n");
