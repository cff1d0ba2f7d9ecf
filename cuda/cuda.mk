# BUILD/fp8llm_cuda.so: machine code and PTX of each CUDA_ARCH, linked against the shared CUDA
# libraries; included by the Makefile when nvcc was found.
CCACHE     := $(shell command -v ccache)
CUDA_LIBS  := -L$(CUDA_LIB) -lcudart -lcublasLt -Wl,-rpath,$(CUDA_LIB)
CUDA_GEN   := $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=[sm_$(a),compute_$(a)])
CUDA_FLAGS := -std=c++17 -O3 -lineinfo -no-compress -Xptxas -warn-spills,-warn-lmem-usage -I. -Isrc \
    -Xcompiler -fPIC,-fvisibility=hidden
CUDA_OBJ   := $(patsubst %,$(BUILD)/%.o,$(wildcard cuda/*.cu) $(basename $(wildcard cuda/*.c)))
# What the backend uses of src is in it once more, not exported.
CUDA_UTIL  := $(patsubst %,$(BUILD)/src/%.o,backend/check util/err util/mem util/fp8 util/dtype)
CUDA_MODULES := $(BUILD)/fp8llm_cuda.so $(BUILD)/spec/c/fp8llm_cuda.so \
    $(patsubst %,$(BUILD)/lua%/fp8llm_cuda.so,$(filter-out 5.1,$(FOUND)))

cuda: $(CUDA_MODULES)
$(BUILD)/cuda/%.o: FLAGS += -I. -isystem $(CUDA_HOME)/include
$(BUILD)/cuda/%.cu.o: cuda/%.cu $(BUILD)/cuda.flags
	@mkdir -p $(@D)
	$(CCACHE) $(NVCC) $(CUDA_FLAGS) $(CUDA_GEN) -MMD -MP -MF $@.d -MT $@ -c $< -o $@
$(BUILD)/fp8llm_cuda.so: $(CUDA_OBJ) $(CUDA_UTIL)
	$(CC) -shared $(CFLAGS) -Wl,--exclude-libs,ALL -Wl,-z,defs -o $@ $^ $(LDFLAGS) $(CUDA_LIBS) -lstdc++ -lm -pthread
# Beside every fp8llm.so, and beside the tests.
$(BUILD)/%/fp8llm_cuda.so: $(BUILD)/fp8llm_cuda.so
	@mkdir -p $(@D)
	ln -sf $(abspath $<) $@
$(BUILD)/cuda.flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(CUDA_FLAGS) $(CUDA_GEN)' | cmp -s - $@ || echo '$(NVCC) $(CUDA_FLAGS) $(CUDA_GEN)' > $@

# The same objects that a GPU runs, on the emulated one: the longest runs first, as many at a time as there are cores.
CUDA_OP_TESTS := layer linear attend record sample copy ops
CUDA_SPECS    := quantize tensor
CUDA_ONCE     := memory launch bench failure paths kit
CUDA_SEEDS    := 1 2 3
log_of         = $(foreach t,$(2),$(patsubst %,$(BUILD)/emu/log/%-$(t),$(1)))
CUDA_RUNS     := $(call log_of,$(lastword $(CUDA_ARCH)),$(CUDA_SEEDS:%=model-%) $(CUDA_ONCE)) \
    $(call log_of,$(CUDA_ARCH),model $(CUDA_OP_TESTS) $(CUDA_SPECS))
test-cuda-ops: $(BUILD)/fp8llm.so $(CUDA_MODULES) $(EMU_LIBS) $(CUDA_OP_TESTS:%=$(BUILD)/spec/c/test_backend_%)
	@mkdir -p $(BUILD)/emu/log
	@for run in $(CUDA_RUNS); do echo "$$run"; done | xargs -P $$(nproc) -I{} sh spec/cuda/run.sh $(BUILD) {} ; \
	    cat $(CUDA_RUNS); ! grep -q '^not ok' $(CUDA_RUNS)

# What runs on a GPU that is at hand for minutes (spec/cuda/kit.sh): machine code of one
# architecture, and nothing of the C++ library but what is inside.
KIT_ARCH ?= 90
KIT_OBJ  := $(BUILD)/kit-$(KIT_ARCH)
KIT_PROGRAMS := $(CUDA_OP_TESTS:%=$(BUILD)/spec/c/test_backend_%) $(BUILD)/spec/cuda/time_kernels \
    $(BUILD)/spec/cuda/lt_probe
$(KIT_OBJ)/%.cu.o: cuda/%.cu $(BUILD)/cuda.flags
	@mkdir -p $(@D)
	$(CCACHE) $(NVCC) $(CUDA_FLAGS) -gencode arch=compute_$(KIT_ARCH),code=[sm_$(KIT_ARCH),compute_$(KIT_ARCH)] \
	    -MMD -MP -MF $@.d -MT $@ -c $< -o $@
$(KIT_OBJ)/fp8llm_cuda.so: $(patsubst cuda/%.cu,$(KIT_OBJ)/%.cu.o,$(wildcard cuda/*.cu)) \
    $(filter-out %.cu.o,$(CUDA_OBJ)) $(CUDA_UTIL)
	$(CXX) -shared -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,-z,defs -o $@ $^ \
	    -L$(CUDA_LIB) -lcudart -lcublasLt -lm -pthread
$(BUILD)/spec/cuda/%.o: FLAGS += -Ispec/c -isystem $(CUDA_HOME)/include
$(BUILD)/spec/cuda/time_kernels: $(BUILD)/spec/cuda/time_kernels.o $(TEST_LIB) $(CORE)
	$(CC) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)
$(BUILD)/spec/cuda/lt_probe: $(BUILD)/spec/cuda/lt_probe.o
	$(CC) $(CFLAGS) -o $@ $^ $(LDFLAGS) -L$(CUDA_LIB) -lcudart -lcublasLt
gpu-kit-parts: $(BUILD)/fp8llm.so $(KIT_OBJ)/fp8llm_cuda.so $(KIT_PROGRAMS)

# Everything a GPU can tell, on the one of this machine: build/gpu-report.
test-gpu: fp8-model
	@sh spec/cuda/kit.sh && sh $(BUILD)/gpu-kit/go.sh --out $(BUILD)/gpu-report
