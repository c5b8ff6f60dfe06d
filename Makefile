# SPDX-License-Identifier: Apache-2.0
# cvol: make, make check, make demo, make install. Everything is built below $(BUILD).

BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= cc
VERSION := 0.1.0

BINDIR     = $(PREFIX)/bin
LIBEXECDIR = $(PREFIX)/libexec/cvol
MANDIR     = $(PREFIX)/share/man

WARNINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition \
	-Wformat=2 -Wundef -Wvla -Wpointer-arith -Wwrite-strings -Wswitch-enum -Wnull-dereference \
	-Wimplicit-fallthrough -Wno-missing-field-initializers
ifeq ($(WERROR),1)
WARNINGS += -Werror
endif
CFLAGS   ?= -O2 -g
ALL_CFLAGS = -std=gnu11 $(WARNINGS) -fno-strict-aliasing -fstack-protector-strong $(CFLAGS) $(SANITIZE) -pthread
ALL_CPPFLAGS = -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 \
	-DCV_VERSION='"$(VERSION)"' -DCV_LIBEXECDIR='"$(LIBEXECDIR)"' $(CPPFLAGS)
# -O2 implies FORTIFY only when optimising; the sanitizer build defines its own.
ifeq ($(SANITIZE),)
ALL_CPPFLAGS += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif
ALL_LDFLAGS = -Wl,-z,relro,-z,now $(LDFLAGS) $(SANITIZE) -pthread

PKG_CVOL = json-c libmicrohttpd
PKG_FUSE = fuse3 libnfs libssh
CFLAGS_CVOL = $(shell pkg-config --cflags $(PKG_CVOL))
LIBS_CVOL   = $(shell pkg-config --libs $(PKG_CVOL))
CFLAGS_FUSE = $(shell pkg-config --cflags $(PKG_FUSE))
LIBS_FUSE   = $(shell pkg-config --libs $(PKG_FUSE))

SRC_CONFIG   = $(wildcard config/*.c)
SRC_PLUGIN   = $(wildcard plugin/*.c)
SRC_FUSE     = $(wildcard fuse/*.c)
SRC_BACKENDS = $(wildcard backends/*.c)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
OBJ_CVOL = $(call obj,$(SRC_PLUGIN) $(SRC_CONFIG))
OBJ_FUSE = $(call obj,$(SRC_FUSE) $(SRC_BACKENDS) $(SRC_CONFIG))

.PHONY: all
all: $(BUILD)/cvol $(BUILD)/cvol-fuse

$(BUILD)/cvol: $(OBJ_CVOL)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CVOL)

$(BUILD)/cvol-fuse: $(OBJ_FUSE)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_FUSE)

$(BUILD)/obj/plugin/%.o: ALL_CFLAGS += $(CFLAGS_CVOL)
$(BUILD)/obj/fuse/%.o $(BUILD)/obj/backends/%.o: ALL_CFLAGS += $(CFLAGS_FUSE)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

-include $(patsubst %.o,%.d,$(OBJ_CVOL) $(OBJ_FUSE))

# Tests, lint, demo, install: each in its own file, so that this one stays the build alone.
-include tests/check.mk tests/bench/bench.mk packaging/install.mk

.PHONY: clean
clean:
	rm -rf $(BUILD)
