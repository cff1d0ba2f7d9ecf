/* config.json and generation_config.json: the published Llamas, both spellings of
 * transformers, defaults, and every refusal. */
#include "formats/hf_config.h"

#include <string.h>

#include "fixture.h"
#include "tap.h"

static int load(const fixture *f, const char *config, const char *generation, fl_config *c,
                fl_generation_config *g, fl_err *e) {
    fixture_text(f, "config.json", config);
    fixture_remove(f, "generation_config.json");
    if (generation) fixture_text(f, "generation_config.json", generation);
    *e = (fl_err){0};
    return fl_config_load(c, g, f->dir, e);
}

#define ROPE3                                                                                      \
    "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"                             \
    "\"original_max_position_embeddings\":8192"

static const char llama31[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":128000,"
    "\"eos_token_id\":[128001,128008,128009],\"hidden_act\":\"silu\",\"hidden_size\":4096,"
    "\"intermediate_size\":14336,\"max_position_embeddings\":131072,\"mlp_bias\":false,"
    "\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":32,"
    "\"num_key_value_heads\":8,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":{" ROPE3
    ",\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,\"tie_word_embeddings\":false,"
    "\"torch_dtype\":\"bfloat16\",\"use_cache\":true,\"vocab_size\":128256}";

static const char v5[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"dtype\":\"float16\",\"head_dim\":128,"
    "\"hidden_size\":3072,\"intermediate_size\":8192,\"num_attention_heads\":24,"
    "\"num_key_value_heads\":8,\"rope_parameters\":{" ROPE3
    ",\"rope_type\":\"llama3\",\"rope_theta\":500000},\"rope_theta\":1,"
    "\"rope_scaling\":null,\"tie_word_embeddings\":true,\"vocab_size\":128256}";

static void test_published(const fixture *f) {
    fl_config c;
    fl_generation_config g;
    fl_err e;
    int rc = load(f, llama31,
                  "{\"temperature\":0.6,\"top_p\":0.9,\"do_sample\":true,"
                  "\"eos_token_id\":[128001,128008,128009],\"bos_token_id\":128000}",
                  &c, &g, &e);
    check(!rc && c.vocab_size == 128256 && c.hidden_size == 4096 && c.ffn_size == 14336 &&
              c.n_layers == 32 && c.n_heads == 32 && c.n_kv_heads == 8 && c.head_dim == 128 &&
              c.max_position == 131072 && c.rms_norm_eps == 1e-5,
          "Llama 3.1 8B: sizes %s", e.msg);
    check(c.rope.type == FL_ROPE_LLAMA3 && c.rope.theta == 5e5 && c.rope.factor == 8 &&
              c.rope.low_freq_factor == 1 && c.rope.high_freq_factor == 4 &&
              c.rope.original_max_position == 8192,
          "Llama 3.1 8B: rope");
    check(!c.tied && !c.attention_bias && !c.mlp_bias && c.dtype == FL_DTYPE_BF16 &&
              c.bos_id == 128000 && c.pad_id == -1,
          "Llama 3.1 8B: flags and ids");
    check(c.n_eos == 3 && c.eos_ids[0] == 128001 && c.eos_ids[1] == 128008 &&
              c.eos_ids[2] == 128009,
          "Llama 3.1 8B: end tokens of both files, each once");
    check(g.has_temperature && g.temperature == 0.6 && g.has_top_p && g.top_p == 0.9 &&
              g.has_do_sample && g.do_sample && !g.has_top_k && !g.has_min_p &&
              !g.has_repetition_penalty && !g.has_max_new_tokens,
          "Llama 3.1 8B: sampling defaults");
    rc = load(f, v5, NULL, &c, &g, &e);
    check(!rc && c.rope.type == FL_ROPE_LLAMA3 && c.rope.theta == 5e5 && c.head_dim == 128 &&
              c.n_heads == 24 && c.dtype == FL_DTYPE_F16 && c.tied,
          "transformers 5: rope_parameters wins, dtype, head_dim beside hidden / heads %s", e.msg);
}

static void test_defaults(const fixture *f) {
    fl_config c;
    fl_generation_config g;
    fl_err e;
    int rc = load(f, "{\"model_type\":\"llama\"}", NULL, &c, &g, &e);
    check(!rc && c.vocab_size == 32000 && c.hidden_size == 4096 && c.ffn_size == 11008 &&
              c.n_layers == 32 && c.n_heads == 32 && c.n_kv_heads == 32 && c.head_dim == 128 &&
              c.max_position == 2048 && c.rms_norm_eps == 1e-6 && c.rope.type == FL_ROPE_DEFAULT &&
              c.rope.theta == 10000 && c.dtype == FL_DTYPE_F32 && c.bos_id == 1 && c.pad_id == -1 &&
              c.n_eos == 1 && c.eos_ids[0] == 2,
          "nothing given: the Llama defaults %s", e.msg);
    check(!g.has_temperature && !g.has_do_sample && g.temperature == 1 && g.top_p == 1 &&
              g.repetition_penalty == 1,
          "no generation_config.json: nothing set, neutral values");
    check(!fl_config_load(&c, NULL, f->dir, &e), "the sampling defaults need not be asked for");
}

/* Members added to a minimal config, and what must come out. */
static void test_accepted(const fixture *f) {
    fl_config c;
    fl_generation_config g;
    fl_err e;
#define LLAMA(members) "{\"model_type\":\"llama\"," members "}"
#define OK(what, config, generation, condition)                                                    \
    do {                                                                                           \
        int rc = load(f, config, generation, &c, &g, &e);                                          \
        check(!rc && (condition), "%s %s", what, e.msg);                                           \
    } while (0)
    OK("null where a default exists",
       LLAMA("\"num_key_value_heads\":null,\"head_dim\":null,\"rope_scaling\":null,"
             "\"pad_token_id\":null,\"vocab_size\":null"),
       NULL, c.n_kv_heads == 32 && c.head_dim == 128 && c.vocab_size == 32000 && c.pad_id == -1);
    OK("sizes written as floats", LLAMA("\"hidden_size\":2048.0,\"rope_theta\":500000"), NULL,
       c.hidden_size == 2048 && c.rope.theta == 5e5);
    OK("head_dim beside hidden / heads",
       LLAMA("\"hidden_size\":100,\"num_attention_heads\":3,\"head_dim\":64"), NULL,
       c.head_dim == 64);
    OK("the smallest head",
       LLAMA("\"hidden_size\":2,\"num_attention_heads\":1,\"num_key_value_heads\":1"), NULL,
       c.head_dim == 2);
    OK("the largest head",
       LLAMA("\"hidden_size\":1024,\"num_attention_heads\":1,\"num_key_value_heads\":1"), NULL,
       c.head_dim == 1024);
    OK("the largest id", LLAMA("\"eos_token_id\":2147483647"), NULL,
       c.n_eos == 1 && c.eos_ids[0] == 2147483647);
    OK("no end token in generation_config.json", LLAMA("\"eos_token_id\":5"),
       "{\"eos_token_id\":null}", c.n_eos == 1 && c.eos_ids[0] == 5);
    OK("no begin and no end token", LLAMA("\"bos_token_id\":null,\"eos_token_id\":null"), NULL,
       c.bos_id == -1 && c.n_eos == 0);
    OK("end token only in generation_config.json", LLAMA("\"bos_token_id\":7"),
       "{\"eos_token_id\":[9,8,9]}",
       c.bos_id == 7 && c.n_eos == 2 && c.eos_ids[0] == 9 && c.eos_ids[1] == 8);
    OK("union of end tokens", LLAMA("\"eos_token_id\":5"), "{\"eos_token_id\":6}",
       c.n_eos == 2 && c.eos_ids[0] == 5 && c.eos_ids[1] == 6);
    OK("legacy bias", LLAMA("\"bias\":true"), NULL, c.attention_bias && !c.mlp_bias);
    OK("biases", LLAMA("\"attention_bias\":true,\"mlp_bias\":true"), NULL,
       c.attention_bias && c.mlp_bias);
    OK("linear rope under its old key",
       LLAMA("\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}"), NULL,
       c.rope.type == FL_ROPE_LINEAR && c.rope.factor == 2);
    OK("rope type default", LLAMA("\"rope_scaling\":{\"rope_type\":\"default\"}"), NULL,
       c.rope.type == FL_ROPE_DEFAULT);
    OK("rope type null", LLAMA("\"rope_scaling\":{\"rope_type\":null}"), NULL,
       c.rope.type == FL_ROPE_DEFAULT);
    OK("rope_parameters with theta alone",
       LLAMA("\"rope_parameters\":{\"rope_theta\":1e5,\"rope_type\":\"default\"}"), NULL,
       c.rope.type == FL_ROPE_DEFAULT && c.rope.theta == 1e5);
    OK("rope_interleaved false", LLAMA("\"rope_interleaved\":false,\"is_llama_config\":true"), NULL,
       true);
    OK("unknown keys", LLAMA("\"pretraining_tp\":2,\"x\":{\"y\":[1,{}]}"), NULL, true);
    OK("every sampling default", LLAMA("\"x\":0"),
       "{\"temperature\":0.5,\"top_p\":0.8,\"top_k\":40,\"min_p\":0.1,\"repetition_penalty\":1.1,"
       "\"max_new_tokens\":99,\"do_sample\":false}",
       g.has_temperature && g.temperature == 0.5 && g.has_top_p && g.top_p == 0.8 && g.has_top_k &&
           g.top_k == 40 && g.has_min_p && g.min_p == 0.1 && g.has_repetition_penalty &&
           g.repetition_penalty == 1.1 && g.has_max_new_tokens && g.max_new_tokens == 99 &&
           g.has_do_sample && !g.do_sample);
    OK("sampling defaults null", LLAMA("\"x\":0"), "{\"temperature\":null,\"top_k\":null}",
       !g.has_temperature && !g.has_top_k && g.temperature == 1);
    OK("ids and defaults of sampling that make no sense are ignored",
       LLAMA("\"bos_token_id\":[1],\"pad_token_id\":\"x\""),
       "{\"temperature\":-1,\"top_p\":1.5,\"top_k\":2.5,\"min_p\":\"a\",\"repetition_penalty\":0,"
       "\"max_new_tokens\":0,\"do_sample\":\"no\"}",
       c.bos_id == -1 && c.pad_id == -1 && !g.has_temperature && !g.has_top_p && !g.has_top_k &&
           !g.has_min_p && !g.has_repetition_penalty && !g.has_max_new_tokens && !g.has_do_sample &&
           g.temperature == 1 && g.top_p == 1);
    OK("0 and 1 as Python takes them", LLAMA("\"attention_bias\":1,\"mlp_bias\":0"),
       "{\"do_sample\":0}", c.attention_bias && !c.mlp_bias && g.has_do_sample && !g.do_sample);
    OK("the last of two members", LLAMA("\"head_dim\":64,\"head_dim\":32"), NULL, c.head_dim == 32);
    OK("swish", LLAMA("\"hidden_act\":\"swish\""), NULL, true);
    OK("torch's own name of a type", LLAMA("\"torch_dtype\":\"torch.bfloat16\""), NULL,
       c.dtype == FL_DTYPE_BF16 && !c.dtype_of_weights);
    OK("type auto", LLAMA("\"torch_dtype\":\"auto\""), NULL, c.dtype_of_weights);
    OK("no type", LLAMA("\"torch_dtype\":null"), NULL, c.dtype_of_weights);
    OK("a model without its head", LLAMA("\"architectures\":[\"LlamaModel\"]"), NULL, true);
    OK("rope_scaling before rope_parameters",
       LLAMA("\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4},"
             "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5e5}"),
       NULL, c.rope.type == FL_ROPE_LINEAR && c.rope.factor == 4 && c.rope.theta == 5e5);
    OK("rope_scaling's own theta",
       LLAMA("\"rope_scaling\":{\"rope_type\":\"default\",\"rope_theta\":3e5},\"rope_theta\":2e5,"
             "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,\"rope_theta\":5e5}"),
       NULL, c.rope.type == FL_ROPE_DEFAULT && c.rope.theta == 3e5);
    OK("an empty rope_scaling is none",
       LLAMA("\"rope_scaling\":{},\"rope_theta\":2e5,"
             "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,\"rope_theta\":5e5}"),
       NULL, c.rope.type == FL_ROPE_LINEAR && c.rope.theta == 5e5);
}

typedef struct refused_case {
    const char *config, *generation;
    int code;
    const char *says; /* after the folder */
} refused_case;

#define EOS17 "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]"

static const refused_case refused[] = {
    {"", NULL, FL_E_FORMAT, "config.json: line 1: not valid JSON"},
    {"[]", NULL, FL_E_FORMAT, "config.json: not a JSON object"},
    {"{}", NULL, FL_E_FORMAT, "config.json: neither model_type nor architectures"},
    {"{\"model_type\":5}", NULL, FL_E_FORMAT, "config.json: model_type: need a string, got 5"},
    {"{\"model_type\":\"mistral\"}", NULL, FL_E_UNSUPPORTED,
     "config.json: model_type: \"mistral\""},
    {"{\"architectures\":[\"Qwen2ForCausalLM\"]}", NULL, FL_E_UNSUPPORTED,
     "architectures: \"Qwen2ForCausalLM\""},
    {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForSequenceClassification\"]}", NULL,
     FL_E_UNSUPPORTED, "architectures: \"LlamaForSequenceClassification\""},
    {"{\"architectures\":\"LlamaForCausalLM\"}", NULL, FL_E_FORMAT, "architectures: need a list"},
    {"{\"architectures\":[]}", NULL, FL_E_FORMAT, "architectures: need a list"},
    {"{\"architecture\":\"LlamaForCausalLM\",\"mapping\":{\"tp_size\":1}}", NULL, FL_E_UNSUPPORTED,
     "TensorRT-LLM"},
    {"{\"architecture\":\"LlamaForCausalLM\"}", NULL, FL_E_FORMAT, "neither model_type nor"},
    {LLAMA("\"hidden_act\":\"gelu\""), NULL, FL_E_UNSUPPORTED, "hidden_act: \"gelu\""},
    {LLAMA("\"rope_interleaved\":true"), NULL, FL_E_UNSUPPORTED, "rope_interleaved: \"true\""},
    {LLAMA("\"partial_rotary_factor\":0.5"), NULL, FL_E_UNSUPPORTED, "partial_rotary_factor"},
    {LLAMA("\"vocab_size\":0"), NULL, FL_E_FORMAT,
     "vocab_size: need an integer in [1, 4194304], got 0"},
    {LLAMA("\"vocab_size\":4194305"), NULL, FL_E_FORMAT, "vocab_size"},
    {LLAMA("\"vocab_size\":\"32000\""), NULL, FL_E_FORMAT, "vocab_size"},
    {LLAMA("\"hidden_size\":-4096"), NULL, FL_E_FORMAT, "hidden_size"},
    {LLAMA("\"hidden_size\":1e300"), NULL, FL_E_FORMAT, "hidden_size"},
    {LLAMA("\"hidden_size\":4096.5"), NULL, FL_E_FORMAT, "hidden_size"},
    {LLAMA("\"hidden_size\":[4096]"), NULL, FL_E_FORMAT, "hidden_size"},
    {LLAMA("\"intermediate_size\":0"), NULL, FL_E_FORMAT, "intermediate_size"},
    {LLAMA("\"num_hidden_layers\":1025"), NULL, FL_E_FORMAT, "num_hidden_layers"},
    {LLAMA("\"num_attention_heads\":0"), NULL, FL_E_FORMAT, "num_attention_heads"},
    {LLAMA("\"num_key_value_heads\":0"), NULL, FL_E_FORMAT, "num_key_value_heads"},
    {LLAMA("\"num_key_value_heads\":5"), NULL, FL_E_FORMAT,
     "num_attention_heads 32 is no multiple of num_key_value_heads 5"},
    {LLAMA("\"num_key_value_heads\":64"), NULL, FL_E_FORMAT,
     "no multiple of num_key_value_heads 64"},
    {LLAMA("\"hidden_size\":100"), NULL, FL_E_FORMAT,
     "hidden_size 100 is no multiple of num_attention_heads 32"},
    {LLAMA("\"head_dim\":63"), NULL, FL_E_FORMAT, "head_dim 63"},
    {LLAMA("\"head_dim\":0"), NULL, FL_E_FORMAT, "head_dim"},
    {LLAMA("\"head_dim\":2048"), NULL, FL_E_FORMAT, "head_dim"},
    {LLAMA("\"num_attention_heads\":1,\"num_key_value_heads\":1"), NULL, FL_E_FORMAT,
     "head_dim 4096"},
    {LLAMA("\"hidden_size\":1,\"num_attention_heads\":1,\"num_key_value_heads\":1"), NULL,
     FL_E_FORMAT, "head_dim 1:"},
    {LLAMA("\"max_position_embeddings\":0"), NULL, FL_E_FORMAT, "max_position_embeddings"},
    {LLAMA("\"rms_norm_eps\":-1"), NULL, FL_E_FORMAT, "rms_norm_eps"},
    {LLAMA("\"rope_theta\":0"), NULL, FL_E_FORMAT, "rope_theta"},
    {LLAMA("\"rope_theta\":NaN"), NULL, FL_E_FORMAT, "rope_theta: need a number"},
    {LLAMA("\"rope_scaling\":4"), NULL, FL_E_FORMAT, "rope_scaling: not an object"},
    {LLAMA("\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}"), NULL, FL_E_UNSUPPORTED,
     "rope_scaling.rope_type: \"yarn\""},
    {LLAMA("\"rope_scaling\":{\"rope_type\":\"dynamic\"}"), NULL, FL_E_UNSUPPORTED, "\"dynamic\""},
    {LLAMA("\"rope_parameters\":{\"rope_type\":\"longrope\"}"), NULL, FL_E_UNSUPPORTED,
     "rope_parameters.rope_type: \"longrope\""},
    {LLAMA("\"rope_scaling\":{\"rope_type\":7}"), NULL, FL_E_FORMAT, "rope_scaling.rope_type"},
    {LLAMA("\"rope_scaling\":{\"type\":\"linear\"}"), NULL, FL_E_FORMAT,
     "rope_scaling.factor: missing"},
    {LLAMA("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_"
           "freq_factor\":4}"),
     NULL, FL_E_FORMAT, "rope_scaling.original_max_position_embeddings: missing"},
    {LLAMA("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":0,\"low_freq_factor\":1,\"high_"
           "freq_factor\":4,"
           "\"original_max_position_embeddings\":8192}"),
     NULL, FL_E_FORMAT, "rope_scaling.factor"},
    {LLAMA("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_"
           "freq_factor\":4,"
           "\"original_max_position_embeddings\":8192}"),
     NULL, FL_E_FORMAT, "high_freq_factor 4 is not above low_freq_factor 4"},
    {LLAMA("\"rope_parameters\":{\"partial_rotary_factor\":0.25}"), NULL, FL_E_UNSUPPORTED,
     "rope_parameters.partial_rotary_factor"},
    {LLAMA("\"torch_dtype\":\"float64\""), NULL, FL_E_UNSUPPORTED, "torch_dtype: \"float64\""},
    {LLAMA("\"dtype\":\"int8\""), NULL, FL_E_UNSUPPORTED, "dtype: \"int8\""},
    {LLAMA("\"torch_dtype\":16"), NULL, FL_E_FORMAT, "torch_dtype"},
    {LLAMA("\"tie_word_embeddings\":\"no\""), NULL, FL_E_FORMAT,
     "tie_word_embeddings: need true or false"},
    {LLAMA("\"attention_bias\":2"), NULL, FL_E_FORMAT, "attention_bias"},
    {LLAMA("\"eos_token_id\":-1"), NULL, FL_E_FORMAT, "config.json: eos_token_id"},
    {LLAMA("\"eos_token_id\":[1,\"2\"]"), NULL, FL_E_FORMAT, "config.json: eos_token_id"},
    {LLAMA("\"eos_token_id\":[[1]]"), NULL, FL_E_FORMAT, "config.json: eos_token_id"},
    {LLAMA("\"eos_token_id\":" EOS17), NULL, FL_E_LIMIT, "more than 16 end tokens"},
    {LLAMA("\"x\":0"), "{", FL_E_FORMAT, "generation_config.json: line 1"},
    {LLAMA("\"x\":0"), "[]", FL_E_FORMAT, "generation_config.json: not a JSON object"},
    {LLAMA("\"x\":0"), "{\"eos_token_id\":{}}", FL_E_FORMAT,
     "generation_config.json: eos_token_id"},
};

static void test_refused(const fixture *f) {
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        const refused_case *r = &refused[i];
        fl_config c = {.n_layers = 77};
        fl_generation_config g;
        fl_err e;
        int rc = load(f, r->config, r->generation, &c, &g, &e);
        check(rc == r->code && strstr(e.msg, r->says) && (!rc || c.n_layers == 77), "%s%s: %s",
              r->config, r->generation ? r->generation : "", e.msg);
    }
    fl_config c;
    fl_err e = {0};
    fixture_remove(f, "config.json");
    check(fl_config_load(&c, NULL, f->dir, &e) == FL_E_IO && strstr(e.msg, "config.json"),
          "no config.json: %s", e.msg);
}

static int load_once(void *ctx) {
    const fixture *f = ctx;
    fl_config c;
    fl_generation_config g;
    return fl_config_load(&c, &g, f->dir, NULL);
}

int main(void) {
    fixture f;
    fixture_new(&f);
    test_published(&f);
    test_defaults(&f);
    test_accepted(&f);
    test_refused(&f);
    fixture_text(&f, "config.json", llama31);
    fixture_text(&f, "generation_config.json", "{\"eos_token_id\":3}");
    check(fixture_sweep(load_once, &f) > 4, "every failing allocation is FL_E_NOMEM");
    int n_refused = fixture_flip(&f, "config.json", llama31, load_once, &f);
    check(n_refused > 2000, "bit flips of config.json: %d of %zu are refused", n_refused,
          8 * strlen(llama31));
    fixture_free(&f);
    return tap_done();
}
