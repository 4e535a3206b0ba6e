// From packed channels, or tokens, to pooled embeddings: checks, groups of sequences and threads.
#pragma once

#include "../tokenize.h"
#include "encoder.h"

namespace lwm {

// Sequences of tokens, and where their pooled rows go.
struct EncodeTask {
    Pool pool;
    float* out;
    std::int64_t out_rows;
    std::int64_t max_len;  // of a sequence whose positions go by token number
    std::int64_t patch_len, embed_dim;
    int num_threads;  // 0: default_num_threads()
    std::int64_t max_rows = 0, max_columns = 0;  // of a grid of patches; 0: positions go by token number
};

// Channels in, as tokenize() takes them. All arguments are checked; throws std::invalid_argument.
void encode_channels(const Encoder& encoder, const EncodeTask& task, const float* csi, std::int64_t num_elements,
                     const Packing& packing, const PerSample& scale, const PerSample& cls, TokenVersion version);

// tokens [num_tokens, patch_len]; cu_seqlens [batch + 1]; shape [batch, 2], antennas and subcarriers, or null where
// positions go by token number.
void encode_tokens(const Encoder& encoder, const EncodeTask& task, const float* tokens, std::int64_t num_tokens,
                   const std::int32_t* cu_seqlens, std::int64_t batch, const std::int32_t* shape);

}  // namespace lwm
