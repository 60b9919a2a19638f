// A block through the whole encoder. Each phase shares its work among the team, which waits where one needs all of
// another.

struct Room {
  float *hidden, *joined, *wide;  // by panels, by rows, by panels; the last two never at once
  Bytes narrow, broad;            // read by attend and up, and by output and down
  float *head, *scores, *line;    // of one thread; `line` (LANES, line_stride)
  float *turns, *near;            // (kinds, size of a head, stride); and of one thread, (2 sizes of a head, near_stride)
  int64_t near_stride, line_stride;
  int8_t* levels;                 // of one thread, decoded
  int64_t stride;                 // tokens of `joined` and `head`
#if HF_AMX
  Tiled tiled;  // of one thread
#elif HF_BF16
  Pairs pairs;  // of one thread
#endif
};

// Bytes that may be read behind the last ones, and are multiplied with zeros: 16 quads of the widest panel.
constexpr int64_t BEHIND = 16 * WIDEST * LANES * 4;

static inline Bytes bytes_for(int64_t columns, int64_t tokens, Bump& bump) {
  Bytes made;
  made.values = bump.take<uint8_t>(up_to(columns, 4) * tokens + BEHIND);
  made.step = bump.take<float>(tokens), made.shift = bump.take<float>(tokens);
  made.zero = bump.take<int32_t>(tokens);
  return made;
}

// Of keys, with room for the whole vectors that are written, at no multiple of what caches alias.
HF_INLINE int64_t pairs_of(int64_t tokens) { return up_to(tokens, LANES) / 2 + LANES; }
// Distances between tokens of one sequence, and what vectors reach over.
static inline int64_t reach(const Encoder& encoder, const Block& block) { return encoder.places ? block.longest + SLACK : 0; }

// Floats of one token that is looked up; at no multiple of what caches alias.
HF_INLINE int64_t line_stride(const Encoder& encoder) { return up_to(encoder.width, LANES) + LANES; }
HF_INLINE int64_t score_rows(const Block& block) { return up_to(block.longest, 2 * LANES) + KEYS; }

#if HF_AMX
static inline Tiled tiled_for(const Encoder& encoder, const Block& block, int64_t stride, Bump& bump) {
  const int64_t head = encoder.most_head, parts = encoder.bfloat16 ? 1 : MOST_PARTS;
  Tiled made;
  made.query_stride = stride, made.keys = Tiled::padded(block.longest);
  made.query_rest = Tiled::query_room(head, stride), made.key_rest = Tiled::key_room(head, stride);
  made.value_rest = Tiled::value_room(head, block.longest);
  made.query = bump.take<int32_t>(parts * made.query_rest);
  made.key = bump.take<uint16_t>(parts * made.key_rest);
  made.value = bump.take<uint16_t>(parts * made.value_rest);
  return made;
}

static inline int64_t attention_bytes(const Encoder& encoder, const Block& block, int64_t stride) {
  const int64_t head = encoder.most_head, parts = encoder.bfloat16 ? 1 : MOST_PARTS;
  return parts * (4 * Tiled::query_room(head, stride) + 2 * Tiled::key_room(head, stride) +
                  2 * Tiled::value_room(head, block.longest)) + 3 * 2 * ALIGN;
}
#elif HF_BF16
static inline int64_t attention_bytes(const Encoder& encoder, const Block& block, int64_t stride) {
  if (!encoder.bfloat16) return 0;
  return 8 * ((encoder.most_head + 1) / 2 * stride + QUERIES * LANES) +
         4 * (encoder.most_head + KEYS) * pairs_of(block.longest) + 3 * 2 * ALIGN;
}
#else
static inline int64_t attention_bytes(const Encoder&, const Block&, int64_t) { return 0; }
#endif

static inline Room room_of(const Encoder& encoder, const Block& block, const Team& team, Bump bump) {
  const int64_t tokens = Panels(block.tokens).tokens(), stride = tokens + LANES;
  Room room;
  room.stride = stride;
  room.hidden = bump.take<float>(most(encoder.hidden, encoder.width) * tokens);
  room.joined = bump.take<float>(encoder.most_inner * stride + QUERIES * LANES);
  room.wide = bump.take<float>(encoder.most_wide * tokens);
  room.narrow = bytes_for(encoder.most_columns, tokens, bump);
  room.broad = bytes_for(encoder.most_columns, tokens, bump);
  room.turns = bump.take<float>(encoder.turn_kinds * encoder.most_head * stride);
  room.near_stride = 2 * reach(encoder, block);
  room.line_stride = line_stride(encoder);
  for (int i = 0; i <= team.index; i++) {
    room.near = bump.take<float>(2 * encoder.most_head * room.near_stride);
    room.head = bump.take<float>((3 * encoder.most_head + KEYS) * stride + QUERIES * LANES);
    room.scores = bump.take<float>(score_rows(block) * QUERIES * LANES);
    room.line = bump.take<float>(LANES * room.line_stride);
    room.levels = bump.take<int8_t>(Decoder::bytes(encoder.most_stride));
#if HF_AMX
    room.tiled = tiled_for(encoder, block, stride, bump);
#elif HF_BF16
    if (!encoder.bfloat16) continue;
    room.pairs.keys = pairs_of(block.longest);
    room.pairs.query = bump.take<int32_t>((encoder.most_head + 1) / 2 * stride + QUERIES * LANES);
    room.pairs.key = bump.take<int32_t>((encoder.most_head + 1) / 2 * stride + QUERIES * LANES);
    room.pairs.value = bump.take<int32_t>((encoder.most_head + KEYS) * room.pairs.keys);
#endif
  }
  return room;
}

static int64_t bytes_of(const Encoder& encoder, const Block& block, int threads) {
  const int64_t tokens = Panels(block.tokens).tokens(), stride = tokens + LANES;
  const int64_t both = (most(encoder.hidden, encoder.width) + encoder.most_wide) * tokens * 4 +
                       encoder.turn_kinds * encoder.most_head * stride * 4 + 2 * ALIGN +
                       (encoder.most_inner * stride + QUERIES * LANES) * 4 +
                       2 * (up_to(encoder.most_columns, 4) * tokens + BEHIND + 12 * tokens) + 16 * 2 * ALIGN;
  const int64_t each = 2 * encoder.most_head * 2 * reach(encoder, block) * 4 + 2 * ALIGN +
                       ((3 * encoder.most_head + KEYS) * stride + QUERIES * LANES) * 4 +
                       score_rows(block) * QUERIES * LANES * 4 + LANES * line_stride(encoder) * 4 + 4 * 2 * ALIGN +
                       Decoder::bytes(encoder.most_stride) + attention_bytes(encoder, block, stride);
  return both + threads * each + ALIGN;
}

// `work(Wide<V>, first vector)` for the panels of this thread.
template <class Work>
static inline void each_panel(const Panels& panels, const Team& team, const Work& work) {
  const Share share(panels.count(), team);
  for (int64_t p = share.from; p < share.to; p++) {
    const int64_t vector = panels.first(p);
    switch (panels.width(p)) {
      case 1: work(Wide<1>(), vector); break;
#if HF_WIDEST > 1
      case 2: work(Wide<2>(), vector); break;
#endif
#if HF_WIDEST > 2
      case 3: work(Wide<3>(), vector); break;
#endif
    }
  }
}

constexpr int64_t SOON = 4;  // tokens

// Stored rows lie anywhere: what will be read, in a cache by then.
HF_INLINE void bring_row(const hf_table& table, int64_t row, int64_t width) {
  const auto bring = [](const void* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)from + i);
  };
  if (table.floats) return bring(table.floats + row * width, 4 * width);
  if (table.levels) return bring(table.levels + row * width, width);
  const int32_t place = table.planes.places[row];
  if (place == HF_NOWHERE) return;
  const hf_block& block = table.planes.blocks[place % HF_BLOCKS];
  for (int32_t p = 0; p < block.bits; p++)
    bring(block.planes + p * block.plane + place / HF_BLOCKS * table.planes.line, table.planes.line);
}

HF_INLINE void add_row(const hf_table& table, int64_t row, int64_t width, float* to, const Decoder& decoder) {
  int64_t f = 0;
  if (table.floats) {
    const float* const from = table.floats + row * width;
    for (; f + LANES <= width; f += LANES) store(to + f, load(to + f) + load(from + f));
    for (; f < width; f++) to[f] += from[f];
    return;
  }
  const int8_t* from = decoder.levels;
  if (table.levels) from = table.levels + row * width;
  else decoder.decode({table.planes, width}, row, row + 1, decoder.levels, 0);
  const float scale = table.scale[row], offset = table.offset ? table.offset[row] : 0;
  for (; f + LANES <= width; f += LANES) {
    const floats y = __builtin_convertvector(*(const loose_bytes*)(from + f), floats);
    store(to + f, load(to + f) + (y * all(scale) + all(offset)));
  }
  for (; f < width; f++) to[f] += from[f] * scale + offset;
}

struct Pass {
  const Encoder& encoder;
  const Block& block;
  const hf_request& request;
  const Room& room;
  Team& team;
  Panels panels;
  Decoder decoder;

  // Embeddings into panels of `width` features; lanes behind the last token are 0.
  void embed() const {
    const int64_t width = encoder.width;
    each_vector([&](int64_t vector, int64_t place, int64_t across) {
      const int64_t first = place + vector * LANES;
      for (int64_t lane = 0; lane < LANES; lane++) add_token(first + lane, room.line + lane * room.line_stride);
      float* const panel = room.hidden + place * width + vector * LANES;
      for (int64_t f = 0; f < width; f += LANES) {
        const int64_t here = least(LANES, width - f);
        ints square[LANES];
        for (int64_t lane = 0; lane < LANES; lane++)
          square[lane] = load((const int32_t*)room.line + lane * room.line_stride + f);
        turn_over(square);
        for (int64_t i = 0; i < here; i++) store((int32_t*)panel + (f + i) * across, square[i]);
      }
    });
    const bool norm = request.ids && encoder.embedding_norm.weight;
    const bool project = encoder.projection.rows;
    const Layer& first = *encoder.layers[0];
    const Matrix& reader = project ? encoder.projection : first.attend;
    const Norm *const made = norm ? &encoder.embedding_norm : nullptr, *const last = encoder.norm_last ? made : nullptr;
    settle(project && last ? nullptr : made, width, project ? encoder.projection_grid : first.attend_grid, reader);
    if (!project) return enter(first);
    Bytes narrow = room.narrow;
    narrow.quads = encoder.projection.quads;
    narrow.fixed = !encoder.projection_grid.dynamic;
    multiply(narrow, encoder.projection, ToPanels<false>{narrow, encoder.projection, room.hidden});
    settle(last, encoder.hidden, first.attend_grid, first.attend);
    enter(first);
  }

  // The sum of what the tables have for a token; 0 for one behind the last.
  void add_token(int64_t token, float* to) const {
    const int64_t width = encoder.width;
    for (int64_t f = 0; f < width; f++) to[f] = 0;
    if (token >= block.tokens) return;
    const int64_t place = block.places[token];
    if (!request.ids) {
      for (int64_t f = 0; f < width; f++) to[f] = request.embedded[place * width + f];
      return;
    }
    if (token + SOON < block.tokens) bring_row(encoder.words, request.ids[block.places[token + SOON]], width);
    add_row(encoder.words, request.ids[place], width, to, decoder);
    if (encoder.types.rows) add_row(encoder.types, request.types ? request.types[place] : 0, width, to, decoder);
    if (encoder.positions.rows)
      add_row(encoder.positions, request.positions ? request.positions[place] : place % request.tokens, width, to, decoder);
  }

  // What the first layer normalises before anything else.
  void enter(const Layer& first) const {
    if (encoder.norm_first && first.attention_norm.weight) read(first.attention_norm, first.attend_grid, first.attend);
  }

  // How far queries and keys of each token are turned.
  void place_turns() const {
    if (!encoder.turns) return;
    const int64_t size = encoder.most_head;
    const Share share(room.stride, team);
    for (int64_t token = share.from, s = 0; token < share.to; token++) {
      const bool real = token < block.tokens;
      while (real && block.starts[s + 1] <= token) s++;
      const int64_t place = real ? block.places[token] : 0;
      const int64_t at = !real ? 0 : request.positions ? request.positions[place] : place - block.places[block.starts[s]];
      for (int64_t kind = 0; kind < encoder.turn_kinds; kind++)
        for (int64_t i = 0; i < size; i++)
          room.turns[(kind * size + i) * room.stride + token] = encoder.turns[(kind * encoder.turn_positions + at) * size + i];
    }
    team.wait();
  }

  // What is hidden, normalised where it is said how, and quantized for who reads it.
  void settle(const Norm* norm, int64_t features, const hf_grid& grid, const Matrix& reader) const {
    settle_into(room.hidden, norm, features, grid, reader);
  }

  // The same, but what is hidden stays as it is.
  void read(const Norm& norm, const hf_grid& grid, const Matrix& reader) const {
    settle_into(norm.weight ? room.wide : room.hidden, norm.weight ? &norm : nullptr, encoder.hidden, grid, reader);
  }

  void settle_into(float* normalised, const Norm* norm, int64_t features, const hf_grid& grid, const Matrix& reader) const {
    Bytes to = room.narrow, also = room.broad;
    to.quads = also.quads = reader.quads;
    each_vector([&](int64_t vector, int64_t place, int64_t across) {
      const int64_t at = place * features + vector * LANES;
      const float* const from = room.hidden + at;
      float* const panel = normalised + at;
      Extent found = norm ? normalise(from, panel, across, features, *norm) : extent_of(panel, across, features);
      const float* const read = adjusted(panel, room.wide + at, across, features, reader, found);
      put_bytes(read, across, features, grid, found, to, place, vector, across, reader);
      if (reader.apart) put_bytes(read, across, features, *reader.apart, found, also, place, vector, across, reader);
    });
    team.wait();
  }

  // `work(vector of its panel, first token of the panel, tokens of the panel)` for the vectors of this thread.
  template <class Work>
  void each_vector(const Work& work) const {
    each_panel(panels, team, [&](auto wide, int64_t vector) {
      for (int64_t v = 0; v < decltype(wide)::value; v++) work(v, vector * LANES, decltype(wide)::value * LANES);
    });
  }

  static void put_bytes(const float* from, int64_t stride, int64_t features, const hf_grid& grid, const Extent& found,
                        const Bytes& to, int64_t place, int64_t vector, int64_t across, const Matrix& reader) {
    uint8_t* const at = to.panel(place / LANES) + vector * LANES * 4;
    quantize(from, stride, features, grid, found, to, place + vector * LANES, at, across, reader.offset);
  }

  // What this thread multiplies next, where it has all rows of it.
  const int8_t* alone(const int8_t* levels) const { return team.count == 1 ? levels : nullptr; }

  // All rows of a matrix, by the whole team.
  template <class Put>
  void multiply(Bytes from, const Matrix& matrix, const Put& put) const {
    const Share share(matrix.padded_rows, team, STEP);
    product(panels, from, matrix, share.from, share.to, put, decoder, alone(matrix.next));
    team.wait();
  }

  void attention(const Layer& layer, Bytes from) const {
    const Share share(layer.heads, team);
    const int64_t rows = 3 * layer.head_size;
    Bytes also = room.broad;
    also.quads = layer.attend.quads;
    also.fixed = layer.attend.apart && !layer.attend.apart->dynamic;
#if HF_AMX
    const bool tiles = !layer.position_key;
    Tiled tiled = room.tiled;
    tiled.size = Tiled::deep(layer.head_size);
#elif HF_BF16
    const bool pairs = encoder.bfloat16 && !layer.window && !layer.position_key;
#endif
    for (int64_t h = share.from; h < share.to; h++) {
      const int8_t* const after = h + 1 == share.to ? alone(layer.attend.next)
                                  : layer.attend.levels ? layer.attend.levels + (h + 1) * rows * layer.attend.stride : nullptr;
      const int64_t value = layer.attend.apart ? h * rows + 2 * layer.head_size : (h + 1) * rows;
      product(panels, from, layer.attend, h * rows, value, ToRows{from, layer.attend, room.head, h * rows, room.stride}, decoder, after);
      if (layer.attend.apart)
        product(panels, also, layer.attend, value, (h + 1) * rows, ToRows{also, layer.attend, room.head, h * rows, room.stride},
                decoder, after);
      if (layer.turn >= 0)
        for (int part = 0; part < 2; part++)
          turn(room.head + part * layer.head_size * room.stride, layer.head_size / 2, room.stride,
               room.turns + layer.turn * layer.head_size * room.stride, panels.tokens());
      if (layer.position_key) spread(layer, h);
#if HF_AMX
      if (tiles) tile_head(layer, tiled);
#elif HF_BF16
      if (pairs) {
        const int64_t size = layer.head_size, tokens = panels.tokens();
        pair_features(room.head, size, room.stride, tokens, room.pairs.query);
        pair_features(room.head + size * room.stride, size, room.stride, tokens, room.pairs.key);
      }
#endif
      for (int64_t s = 0; s < block.sequences; s++) {
        const int64_t start = block.starts[s], skip = layer.head_size * room.stride;
        const float* const query = room.head + start;
        const float* const relative =
            encoder.relative ? encoder.relative + h * (2 * encoder.span - 1 + 2 * ALIGN) + ALIGN + encoder.span - 1 : layer.near;
        const float* const near = layer.position_key ? room.near + room.near_stride / 2 : nullptr;
        const Head head{query, query + skip, query + 2 * skip, layer.head_size, room.stride, block.starts[s + 1] - start,
                        relative, room.joined + h * skip + start, room.stride,
                        near, near ? near + layer.head_size * room.near_stride : nullptr, room.near_stride};
#if HF_AMX
        if (tiles) {
          in_parts(layer, [&](auto parts) { attend<decltype(parts)::value>(head, tiled, start, room.scores, layer.window); });
          continue;
        }
#elif HF_BF16
        if (pairs) {
          attend(head, room.pairs, start, room.scores);
          continue;
        }
#endif
        attend(head, room.scores, layer.window);
      }
    }
    team.wait();
  }

#if HF_AMX
  // With fixed ranges whatever comes behind a value that fell on another level differs, so that two parts are too few for
  // float32's levels; where tokens have ranges of their own, those differ in their last bits anyway.
  template <typename Work>
  void in_parts(const Layer& layer, Work work) const {
    if (encoder.bfloat16) work(Parts<1>());
    else if (layer.output_grid.dynamic) work(Parts<2>());
    else work(Parts<MOST_PARTS>());
  }

  void tile_head(const Layer& layer, const Tiled& to) const {
    const float* const key = room.head + layer.head_size * room.stride;
    in_parts(layer, [&](auto parts) {
      tile_features<decltype(parts)::value>(room.head, key, layer.head_size, room.stride, panels.tokens(), to);
    });
  }
#endif

  // Positions of one head by distance.
  void spread(const Layer& layer, int64_t head) const {
    const int64_t width = room.near_stride, first = head * layer.head_size;
    const int32_t* const places = encoder.places - width / 2;
    for (int part = 0; part < 2; part++)
      for (int64_t d = 0; d < layer.head_size; d++) {
        const float* const from = (part ? layer.position_query : layer.position_key) + (first + d) * encoder.place_count;
        float* const to = room.near + (part * layer.head_size + d) * width;
        for (int64_t i = 0; i < width; i++) to[i] = from[places[i]];
      }
  }

  void join(const Layer& layer) const {
    Bytes to = room.broad;
    to.quads = layer.output.quads;
    each_vector([&](int64_t vector, int64_t place, int64_t across) {
      float* const joined = room.joined + place + vector * LANES;
      const int64_t features = layer.output.columns;
      Extent found = extent_of(joined, room.stride, features);
      const float* const from = adjusted(joined, joined, room.stride, features, layer.output, found);
      put_bytes(from, room.stride, features, layer.output_grid, found, to, place, vector, across, layer.output);
    });
    team.wait();
  }

  template <int ACTIVATION>
  void widen(const Layer& layer, Bytes from, Bytes to) const {
    if (!layer.down_grid.dynamic && !layer.down.offset && !layer.down.input_scale && !layer.gated) {
      each_panel(panels, team, [&](auto wide, int64_t vector) {
        for (int64_t token = vector * LANES; token < (vector + decltype(wide)::value) * LANES; token += LANES) {
          store(to.step + token, all(layer.down_grid.step));
          store(to.shift + token, floats{});
          store(to.zero + token, all((int32_t)layer.down_grid.zero));
        }
      });
      team.wait();
      const Levels levels(layer.down_grid, all(layer.down_grid.step), all((int32_t)layer.down_grid.zero));
      multiply(from, layer.up, ToBytes<ACTIVATION>{from, layer.up, levels, to, layer.bytes_fit});
      return;
    }
    const int64_t inner = layer.gated ? layer.up.rows / 2 : layer.up.rows;
    if (layer.gated) multiply(from, layer.up, ToGated<ACTIVATION>{from, layer.up, room.wide});
    else multiply(from, layer.up, ToActivated<ACTIVATION>{from, layer.up, room.wide});
    each_vector([&](int64_t vector, int64_t place, int64_t across) {
      float* const panel = room.wide + place * inner + vector * LANES;
      Extent found = extent_of(panel, across, inner);
      const float* const read = adjusted(panel, panel, across, inner, layer.down, found);
      put_bytes(read, across, inner, layer.down_grid, found, to, place, vector, across, layer.down);
    });
    team.wait();
  }

  void through(const Layer& layer, const Layer* next) const {
    Bytes narrow = room.narrow, broad = room.broad;
    narrow.quads = layer.attend.quads;
    narrow.fixed = !layer.attend_grid.dynamic;
    attention(layer, narrow);
    join(layer);
    broad.quads = layer.output.quads;
    broad.fixed = !layer.output_grid.dynamic;
    multiply(broad, layer.output, ToPanels<true>{broad, layer.output, room.hidden});
    if (encoder.norm_first) read(layer.norm, layer.up_grid, layer.up);
    else settle(&layer.attention_norm, encoder.hidden, layer.up_grid, layer.up);
    narrow.quads = layer.up.quads;
    narrow.fixed = !layer.up_grid.dynamic;
    broad.quads = layer.down.quads;
    broad.fixed = !layer.down_grid.dynamic;
    switch (layer.activation) {
      case HF_GELU: widen<HF_GELU>(layer, narrow, broad); break;
      case HF_GELU_TANH: widen<HF_GELU_TANH>(layer, narrow, broad); break;
      default: widen<HF_RELU>(layer, narrow, broad);
    }
    multiply(broad, layer.down, ToPanels<true>{broad, layer.down, room.hidden});
    if (!next) finish(encoder.norm_first ? encoder.final_norm : layer.norm);
    else if (encoder.norm_first) read(next->attention_norm, next->attend_grid, next->attend);
    else settle(&layer.norm, encoder.hidden, next->attend_grid, next->attend);
  }

  // The last normalisation, and out.
  void finish(const Norm& norm) const {
    const int64_t features = encoder.hidden;
    each_vector([&](int64_t vector, int64_t place, int64_t across) {
      float* const panel = room.hidden + place * features + vector * LANES;
      if (norm.weight) normalise(panel, panel, across, features, norm);
      const int64_t first = place + vector * LANES, count = least(LANES, block.tokens - first);
      for (int64_t f = 0; f < features; f += LANES) {
        const int64_t here = least(LANES, features - f);
        ints square[LANES];
        for (int64_t i = 0; i < here; i++) square[i] = load((const int32_t*)panel + (f + i) * across);
        turn_over(square);
        for (int64_t lane = 0; lane < count; lane++)
          store_some((int32_t*)request.out + block.places[first + lane] * features + f, square[lane], here);
      }
    });
    team.wait();
  }
};

static void run(const Encoder& encoder, const Block& block, const hf_request& request, char* memory, Team& team) {
  const Room room = room_of(encoder, block, team, Bump{(char*)up_to((int64_t)memory, ALIGN)});
  Pass pass{encoder, block, request, room, team, Panels(block.tokens), {encoder.decode, room.levels}};
  pass.place_turns();
  pass.embed();
  for (int64_t i = 0; i < encoder.passes; i++)
    pass.through(*encoder.layers[i], i + 1 < encoder.passes ? encoder.layers[i + 1] : nullptr);
}

// Memory for pooling: what is read, and outputs, by panels.
struct PoolRoom {
  float *from, *to;
  Bytes bytes;
  int8_t* levels;
};

static inline PoolRoom pool_room(const Encoder& encoder, int64_t batch, Bump bump) {
  const int64_t tokens = Panels(batch).tokens();
  PoolRoom room;
  room.from = bump.take<float>(encoder.pooler.columns * tokens);
  room.to = bump.take<float>(encoder.pooler.rows * tokens);
  room.bytes = bytes_for(encoder.pooler.columns, tokens, bump);
  room.levels = bump.take<int8_t>(Decoder::bytes(encoder.pooler.stride));
  return room;
}

static int64_t pool_bytes(const Encoder& encoder, int64_t batch) {
  const Matrix& pooler = encoder.pooler;
  const int64_t tokens = Panels(batch).tokens();
  return (pooler.columns + pooler.rows) * tokens * 4 + up_to(pooler.columns, 4) * tokens + BEHIND + 12 * tokens +
         Decoder::bytes(pooler.stride) + 8 * 2 * ALIGN;
}

// Of each row of the batch, tanh of what the pooler makes of its first column.
static void pool(const Encoder& encoder, const hf_request& request, char* memory) {
  const Matrix& pooler = encoder.pooler;
  const Panels panels(request.batch);
  PoolRoom room = pool_room(encoder, request.batch, Bump{(char*)up_to((int64_t)memory, ALIGN)});
  room.bytes.quads = pooler.quads, room.bytes.fixed = !encoder.pooler_grid.dynamic;
  const auto each = [&](int64_t features, const auto& work) {
    for (int64_t p = 0; p < panels.count(); p++)
      for (int64_t v = 0, across = panels.width(p) * LANES; v < panels.width(p); v++)
        work(panels.first(p) * LANES, v, across, panels.first(p) * LANES * features + v * LANES);
  };
  each(pooler.columns, [&](int64_t place, int64_t vector, int64_t across, int64_t at) {
    const int64_t first = place + vector * LANES, count = least(LANES, request.batch - first);
    float* const panel = room.from + at;
    for (int64_t f = 0; f < pooler.columns; f++) {
      floats column{};
      for (int64_t lane = 0; lane < count; lane++)
        column[lane] = request.out[(first + lane) * request.tokens * pooler.columns + f];
      store(panel + f * across, column);
    }
    Extent found = extent_of(panel, across, pooler.columns);
    const float* const read = adjusted(panel, panel, across, pooler.columns, pooler, found);
    uint8_t* const to = room.bytes.panel(place / LANES) + vector * LANES * 4;
    quantize(read, across, pooler.columns, encoder.pooler_grid, found, room.bytes, first, to, across, pooler.offset);
  });
  product(panels, room.bytes, pooler, 0, pooler.padded_rows, ToPanels<false>{room.bytes, pooler, room.to},
          Decoder{encoder.decode, room.levels}, nullptr);
  each(pooler.rows, [&](int64_t place, int64_t vector, int64_t across, int64_t at) {
    const int64_t first = place + vector * LANES, count = least(LANES, request.batch - first);
    for (int64_t f = 0; f < pooler.rows; f++) {
      const floats y = tanh_of(load(room.to + at + f * across));
      for (int64_t lane = 0; lane < count; lane++) request.pooled[(first + lane) * pooler.rows + f] = y[lane];
    }
  });
}
