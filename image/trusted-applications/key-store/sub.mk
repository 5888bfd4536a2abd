srcs-y += key_store.c
cflags-y += -std=gnu11 -Wall -Wextra -Werror
