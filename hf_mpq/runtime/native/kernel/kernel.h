// One instruction set: `HF_PATH` names its namespace.
#ifndef HF_AHEAD
#define HF_AHEAD false  // whether weights are brought near before they are read
#endif

#ifndef HF_BF16
#define HF_BF16 false  // whether it has products of bfloat16
#endif

#ifndef HF_WORDS
#define HF_WORDS 0  // whether there are no sums of products of four bytes
#endif

namespace hf_mpq::HF_PATH {
#include "vectors.h"
#include "layout.h"
#include "levels.h"
#include "planes.h"
#include "product.h"
#include "epilogue.h"
#include "normalise.h"
#include "attention.h"
#include "attention_pairs.h"
#include "attention_tiles.h"
#include "encode.h"
}  // namespace hf_mpq::HF_PATH
