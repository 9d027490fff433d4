// SPDX-License-Identifier: BSD-2-Clause
#include "temp_dir.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <system_error>

namespace vmwhy::test {

TempDir::TempDir() {
  const char* base = std::getenv("VMWHY_TEST_TMP");
  std::string pattern = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/vmwhy-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr)
    throw std::system_error(errno, std::generic_category(), "mkdtemp " + pattern);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::write(std::string_view name, std::string_view content) const {
  const std::string path = *this / name;
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!out.flush()) throw std::system_error(errno, std::generic_category(), "write " + path);
  return path;
}

std::string TempDir::copy_for_everybody(const std::filesystem::path& file) const {
  namespace fs = std::filesystem;
  fs::permissions(path_, fs::perms(0755));
  const fs::path copy = path_ / file.filename();
  fs::copy_file(file, copy, fs::copy_options::overwrite_existing);
  fs::permissions(copy, fs::perms(0755));
  return copy;
}

std::string TempDir::sparse(std::string_view name, std::uint64_t bytes) const {
  return sparse_file(*this / name, bytes);
}

std::string sparse_file(const std::string& path, std::uint64_t bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::app);
  if (!out) throw std::system_error(errno, std::generic_category(), "open " + path);
  std::filesystem::resize_file(path, bytes);
  return path;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();
  return content.str();
}

}  // namespace vmwhy::test
