# The emulated CUDA libraries, BUILD/emu/lib*.so, and their own tests; included by the Makefile
# when nvcc was found.
EMU     := $(BUILD)/emu

EMU_INC  = -isystem $(CUDA_HOME)/include
EMU_FLAGS = -std=gnu11 -D_GNU_SOURCE -O3 -march=native -fno-math-errno -fno-trapping-math \
    -ffp-contract=off -fPIC -pthread $(WARN) -Wno-missing-prototypes $(EMU_INC) $(WERROR)
EMU_RT  := $(patsubst %,$(EMU)/%.o,settings num mem ptx_parse ptx_inst exec exec_mem exec_alu exec_cvt exec_warp \
    exec_mma rt_stream rt_graph rt_kernel rt_device)
EMU_LIBS := $(EMU)/libcudart.so.13 $(EMU)/libcublasLt.so.13 $(EMU)/libnccl.so.2

$(EMU)/%.o: spec/emu/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(EMU_FLAGS) -MMD -MP -c $< -o $@
$(EMU)/libcudart.so.13: $(EMU_RT)
	@echo 'libcudart.so.13 { global: *; };' > $@.map
	$(CC) -shared -Wl,-soname,$(@F) -Wl,--version-script=$@.map -o $@ $^ -lm -pthread
$(EMU)/libcublasLt.so.13: $(EMU)/cublaslt.o $(EMU)/libcudart.so.13
	@echo 'libcublasLt.so.13 { global: *; };' > $@.map
	$(CC) -shared -Wl,-soname,$(@F) -Wl,--version-script=$@.map -o $@ $^ -lm
$(EMU)/libnccl.so.2: $(EMU)/nccl.o $(EMU)/libcudart.so.13
	$(CC) -shared -Wl,-soname,$(@F) -o $@ $^ -lm

# Its own tests.  They are linked as the product is, with the real import libraries, and run
# with the emulated ones in LD_LIBRARY_PATH.
EMU_TESTS := $(EMU)/test_stops $(EMU)/test_e4m3 $(EMU)/test_both $(EMU)/test_bugs $(EMU)/test_nccl
$(EMU)/test_e4m3: spec/emu/test/test_e4m3.cc $(EMU)/num.o
	$(CXX) -O2 $(EMU_INC) -o $@ $^ -lm
$(EMU)/test_stops: spec/emu/test/test_stops.c $(EMU)/libcudart.so.13
	$(CC) $(EMU_FLAGS) -Ispec -Ispec/emu -o $@ $^
$(EMU)/test_nccl: spec/emu/test/test_nccl.c $(EMU_LIBS)
	$(CC) $(EMU_FLAGS) -Ispec -o $@ $< $(EMU)/libnccl.so.2 $(EMU)/libcudart.so.13
EMU_GEN    = $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=compute_$(a))
$(EMU)/test_%.o: spec/emu/test/test_%.cu $(BUILD)/flags
	@mkdir -p $(@D)
	$(CCACHE) $(NVCC) -std=c++17 -O2 -no-compress -lineinfo -fmad=false $(EMU_GEN) -c -o $@ $<
$(EMU)/test_%: $(EMU)/test_%.o $(EMU_LIBS)
	$(CXX) -o $@ $< -L$(CUDA_LIB) -lcudart -lcublasLt
emu-tests: $(EMU_LIBS) $(EMU_TESTS)
test-emu: emu-tests
	@rc=0; for a in $(CUDA_ARCH); do for t in $(EMU_TESTS); do echo "# $$t on $$a"; \
	    EMU_ARCH=$$a EMU_SEED=$$a LD_LIBRARY_PATH=$(EMU) $$t || rc=1; done; done; exit $$rc
