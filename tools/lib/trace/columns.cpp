// SPDX-License-Identifier: BSD-2-Clause
#include "trace/columns.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "trace/format.hpp"
#include "trace/records.hpp"

namespace vmwhy::trace {
namespace {

constexpr std::uint32_t kSample = 512;

template <class T>
T load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T>
T zigzag(T difference) {
  using Signed = std::make_signed_t<T>;
  const auto sign = static_cast<T>(static_cast<Signed>(difference) >> (sizeof(T) * 8 - 1));
  return static_cast<T>(static_cast<T>(difference << 1) ^ sign);
}

template <class T>
T unzigzag(T value) {
  return static_cast<T>(static_cast<T>(value >> 1) ^ static_cast<T>(0 - (value & 1)));
}

// Bits of n values by the frequencies of a sample: n times the entropy.
double entropy(const std::uint32_t* counts, std::size_t symbols, std::uint32_t total) {
  double sum = 0;
  for (std::size_t i = 0; i < symbols; ++i) {
    if (counts[i] != 0)
      sum -= counts[i] * std::log2(static_cast<float>(counts[i]) / static_cast<float>(total));
  }
  return total == 0 ? 0 : sum / total;
}

// Distinct values of a column, as long as there are at most 256.
template <class T>
class Dictionary {
 public:
  // Index of the value, or -1: one too many.
  int add(T value) {
    auto slot = static_cast<std::size_t>((value * std::uint64_t{0x9E3779B97F4A7C15}) >> 54);
    while (slots_[slot] != 0) {
      if (values_[slots_[slot] - 1u] == value) return slots_[slot] - 1;
      slot = (slot + 1) % slots_.size();
    }
    if (count_ == values_.size()) return -1;
    values_[count_++] = value;
    slots_[slot] = static_cast<std::uint16_t>(count_);
    return static_cast<int>(count_ - 1);
  }
  std::size_t count() const { return count_; }
  const T* values() const { return values_.data(); }

 private:
  std::array<std::uint16_t, 1024> slots_{};
  std::array<T, 256> values_{};
  std::size_t count_ = 0;
};

template <class T>
class ColumnEncoder {
 public:
  ColumnEncoder(const char* first, std::size_t stride, std::uint32_t n)
      : first_(first), stride_(stride), n_(n) {}

  void encode(std::string& out) {
    if (constant()) {
      out += static_cast<char>(ColumnCoding::constant);
      out.append(first_, sizeof(T));
      return;
    }
    const double plain = planes_bits(false), delta = planes_bits(true);
    // The index costs a pass over all values: only where it can win something.
    if (sizeof(T) > 1 && std::min(plain, delta) > 0.5 && index_all()) {
      const double head = 8.0 * static_cast<double>(sizeof(T) * dictionary_.count()) / n_;
      if (index_bits() + head < std::min(plain, delta)) {
        put_dictionary(out);
        return;
      }
    }
    // Plain where it does not matter: it is the cheaper one to read.
    put_planes(out, delta + 0.1 < plain);
  }

 private:
  T at(std::uint32_t i) const { return load<T>(first_ + i * stride_); }

  bool constant() const {
    const T value = at(0);
    for (std::uint32_t i = 1; i < n_; ++i) {
      if (at(i) != value) return false;
    }
    return true;
  }

  double planes_bits(bool delta) const {
    std::array<std::array<std::uint32_t, 256>, sizeof(T)> counts{};
    std::uint32_t total = 0;
    const std::uint32_t step = std::max<std::uint32_t>(1, n_ / kSample);
    for (std::uint32_t i = 1; i < n_; i += step, ++total) {
      const T value = delta ? zigzag(static_cast<T>(at(i) - at(i - 1))) : at(i);
      for (std::size_t b = 0; b < sizeof(T); ++b) ++counts[b][static_cast<std::uint8_t>(value >> (8 * b))];
    }
    double bits = 0;
    for (const auto& plane : counts) bits += entropy(plane.data(), plane.size(), total);
    return bits;
  }

  bool index_all() {
    index_.resize(n_);
    for (std::uint32_t i = 0; i < n_; ++i) {
      const int k = dictionary_.add(at(i));
      if (k < 0) return false;
      index_[i] = static_cast<char>(k);
    }
    return true;
  }

  double index_bits() const {
    std::array<std::uint32_t, 256> counts{};
    std::uint32_t total = 0;
    const std::uint32_t step = std::max<std::uint32_t>(1, n_ / kSample);
    for (std::uint32_t i = 1; i < n_; i += step, ++total) ++counts[static_cast<std::uint8_t>(index_[i])];
    return entropy(counts.data(), counts.size(), total);
  }

  void put_dictionary(std::string& out) const {
    out += static_cast<char>(ColumnCoding::dictionary);
    out += static_cast<char>(dictionary_.count() - 1);
    out.append(reinterpret_cast<const char*>(dictionary_.values()), dictionary_.count() * sizeof(T));
    out += index_;
  }

  void put_planes(std::string& out, bool delta) const {
    out += static_cast<char>(delta ? ColumnCoding::delta : ColumnCoding::plain);
    const std::size_t begin = out.size();
    out.resize(begin + std::size_t{n_} * sizeof(T));
    char* planes = out.data() + begin;
    T before = 0;
    for (std::uint32_t i = 0; i < n_; ++i) {
      T value = at(i);
      if (delta) {
        const T difference = static_cast<T>(value - before);
        before = value;
        value = zigzag(difference);
      }
      for (std::size_t b = 0; b < sizeof(T); ++b)
        planes[b * n_ + i] = static_cast<char>(static_cast<std::uint8_t>(value >> (8 * b)));
    }
  }

  const char* first_;
  std::size_t stride_;
  std::uint32_t n_;
  Dictionary<T> dictionary_;
  std::string index_;
};

template <class T>
T from_planes(const char* planes, std::size_t n, std::size_t i) {
  std::uint64_t value = 0;
  for (std::size_t b = 0; b < sizeof(T); ++b)
    value |= std::uint64_t{static_cast<std::uint8_t>(planes[b * n + i])} << (8 * b);
  return static_cast<T>(value);
}

// Takes one column off `data` and spreads it over the rows.
template <class T>
bool decode_column(std::string_view& data, char* first, std::size_t stride, std::size_t n) {
  if (data.empty()) return false;
  const auto coding = static_cast<ColumnCoding>(data[0]);
  data.remove_prefix(1);
  const auto take = [&](std::size_t bytes) -> const char* {
    if (data.size() < bytes) return nullptr;
    const char* begin = data.data();
    data.remove_prefix(bytes);
    return begin;
  };
  const auto put = [&](std::size_t i, T value) { std::memcpy(first + i * stride, &value, sizeof value); };
  switch (coding) {
    case ColumnCoding::constant: {
      const char* value = take(sizeof(T));
      if (value == nullptr) return false;
      for (std::size_t i = 0; i < n; ++i) put(i, load<T>(value));
      return true;
    }
    case ColumnCoding::plain: {
      const char* planes = take(n * sizeof(T));
      if (planes == nullptr) return false;
      for (std::size_t i = 0; i < n; ++i) put(i, from_planes<T>(planes, n, i));
      return true;
    }
    case ColumnCoding::delta: {
      const char* planes = take(n * sizeof(T));
      if (planes == nullptr) return false;
      T value = 0;
      for (std::size_t i = 0; i < n; ++i) {
        value = static_cast<T>(value + unzigzag(from_planes<T>(planes, n, i)));
        put(i, value);
      }
      return true;
    }
    case ColumnCoding::dictionary: {
      const char* count = take(1);
      if (count == nullptr) return false;
      const std::size_t values = std::size_t{static_cast<std::uint8_t>(*count)} + 1;
      const char* table = take(values * sizeof(T));
      const char* index = table == nullptr ? nullptr : take(n);
      if (index == nullptr) return false;
      // An index beyond the table gives zero: the checksum has already told damage from intent.
      std::array<T, 256> all{};
      std::memcpy(all.data(), table, values * sizeof(T));
      for (std::size_t i = 0; i < n; ++i) put(i, all[static_cast<std::uint8_t>(index[i])]);
      return true;
    }
  }
  return false;
}

constexpr std::size_t kVmOffset = offsetof(RecordHeader, vm);

}  // namespace

void encode_columns(std::string_view rows, std::uint16_t size, std::uint32_t records, std::string& out) {
  const char* base = rows.data();
  ColumnEncoder<std::uint64_t>(base, size, records).encode(out);
  ColumnEncoder<std::uint32_t>(base + kVmOffset, size, records).encode(out);
  std::size_t at = sizeof(RecordHeader);
  for (; at + 4 <= size; at += 4) ColumnEncoder<std::uint32_t>(base + at, size, records).encode(out);
  for (; at < size; ++at) ColumnEncoder<std::uint8_t>(base + at, size, records).encode(out);
}

bool decode_columns(std::string_view data, std::uint16_t type, std::uint16_t size, std::uint32_t records,
                    char* rows) {
  if (size < sizeof(RecordHeader)) return false;
  if (!decode_column<std::uint64_t>(data, rows, size, records)) return false;
  if (!decode_column<std::uint32_t>(data, rows + kVmOffset, size, records)) return false;
  std::size_t at = sizeof(RecordHeader);
  for (; at + 4 <= size; at += 4) {
    if (!decode_column<std::uint32_t>(data, rows + at, size, records)) return false;
  }
  for (; at < size; ++at) {
    if (!decode_column<std::uint8_t>(data, rows + at, size, records)) return false;
  }
  for (std::size_t i = 0; i < records; ++i) {
    std::memcpy(rows + i * size + offsetof(RecordHeader, type), &type, sizeof type);
    std::memcpy(rows + i * size + offsetof(RecordHeader, size), &size, sizeof size);
  }
  return data.empty();
}

}  // namespace vmwhy::trace
