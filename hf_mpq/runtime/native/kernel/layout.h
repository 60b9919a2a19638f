// Where things lie. Tokens go in vectors of LANES, and one to three such vectors are a panel. Activations of a panel are
// (quads of features, tokens, 4) bytes, floats of one are (features, tokens); panels follow each other.

constexpr int WIDEST = HF_WIDEST;  // panel, in vectors

template <int V>
struct Wide {
  static constexpr int value = V;
};

struct Panels {
  int64_t vectors, real;

  explicit Panels(int64_t tokens) : vectors((tokens + LANES - 1) / LANES), real(tokens) {}
  int64_t tokens() const { return vectors * LANES; }
  int64_t count() const { return (vectors + WIDEST - 1) / WIDEST; }
  // The last two share what would leave one of them with a single vector.
  bool even() const { return WIDEST == 3 && vectors > 3 && vectors % 3 == 1; }
  int64_t first(int64_t panel) const {  // vector
    return even() && panel == count() - 1 ? vectors - 2 : panel * WIDEST;
  }
  int width(int64_t panel) const {
    if (even() && panel >= count() - 2) return 2;
    return (int)least(WIDEST, vectors - panel * WIDEST);
  }
  // Whether a panel is a vector with tokens in its lower half alone.
  bool half(int64_t panel) const { return width(panel) == 1 && real - first(panel) * LANES <= LANES / 2; }
};

// What a matrix reads: the bytes of all tokens, and how those of each are decoded.
struct Bytes {
  uint8_t* values;
  int64_t quads;
  float *step, *shift;  // shift: step (sum of bytes - columns zero), for weights with offsets
  int32_t* zero;
  bool fixed = false;  // all tokens have the step and zero of one grid, but those that hold NaN or infinity

  uint8_t* panel(int64_t first_vector) const { return values + first_vector * LANES * 4 * quads; }
  // No byte says NaN or infinity: the step of a token that holds one is NaN, and so are the outputs that are made of it.
  void spoil(int64_t token, floats none) const {
    for (int i = 0; i < LANES; i++)
      if (none[i] != none[i]) __atomic_store_n((int32_t*)(step + token + i), 0x7fc00000, __ATOMIC_RELAXED);
  }
};

// `part` of `parts` of a range.
struct Share {
  int64_t from, to;
  Share(int64_t count, const Team& team, int64_t step = 1) {
    const int64_t steps = (count + step - 1) / step;
    from = least(count, steps * team.index / team.count * step);
    to = least(count, steps * (team.index + 1) / team.count * step);
  }
};

// Memory that is handed out once.
struct Bump {
  char* at;
  template <class T>
  T* take(int64_t count) {
    T* const found = (T*)at;
    at += up_to(count * (int64_t)sizeof(T), ALIGN) + ALIGN;  // what lies just behind can be read
    return found;
  }
};
