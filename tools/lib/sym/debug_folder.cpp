// SPDX-License-Identifier: BSD-2-Clause
#include "sym/debug_folder.hpp"

#include <filesystem>
#include <utility>

namespace vmwhy::sym {
namespace {

constexpr std::size_t kMostFiles = 10'000, kMostIds = 1000;

/// It becomes part of a path.
bool is_build_id(const std::string& text) {
  return text.size() >= 8 && text.size() <= 128 &&
         text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

std::unique_ptr<Executable> DebugFolder::open_by_id(const std::string& build_id) const {
  const std::string stem = path_ + "/.build-id/" + build_id.substr(0, 2) + "/" + build_id.substr(2);
  for (const std::string& path : {stem + ".debug", stem}) {
    auto file = Executable::open(path, path_);
    if (file && (*file)->build_id() == build_id) return std::move(*file);
  }
  return nullptr;
}

void DebugFolder::read_folder() {
  std::error_code error;
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path_, error)) {
    if (++files > kMostFiles) return;
    if (!entry.is_regular_file(error)) continue;
    auto file = Executable::open(entry.path(), path_);
    if (!file || (*file)->build_id().empty()) continue;
    known_.emplace((*file)->build_id(), std::move(*file));
  }
}

const Executable* DebugFolder::find(const std::string& build_id) {
  if (!is_build_id(build_id)) return nullptr;
  if (!std::exchange(read_, true)) read_folder();
  if (const auto known = known_.find(build_id); known != known_.end()) return known->second.get();
  if (known_.size() >= kMostIds + kMostFiles) return nullptr;
  return (known_[build_id] = open_by_id(build_id)).get();
}

}  // namespace vmwhy::sym
