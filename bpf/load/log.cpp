// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/log.hpp"

#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace vmwhy::bpf {
namespace {

thread_local LogCapture* innermost = nullptr;
constexpr std::size_t kKeep = 64u << 10;

int print(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG) return 0;
  // The verifier's log comes as one argument of up to 16 MiB; its end tells.
  char* line = nullptr;
  if (!innermost || ::vasprintf(&line, format, arguments) < 0) return 0;
  innermost->add(line);
  std::free(line);
  return 0;
}

}  // namespace

LogCapture::LogCapture() : outer_(innermost) {
  innermost = this;
  libbpf_set_print(&print);
}

LogCapture::~LogCapture() {
  innermost = outer_;
}

void LogCapture::add(const char* line) {
  if (std::getenv("VMWHY_BPF_DEBUG")) std::fputs(line, stderr);
  text_ += line;
  if (text_.size() > kKeep) text_.erase(0, text_.size() - kKeep);
}

std::string LogCapture::last() const {
  std::string_view rest = text_;
  std::string found;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    // The lines behind the verifier's log only repeat that loading failed.
    if (line.find("failed to load") != std::string_view::npos ||
        line.find("END PROG LOAD LOG") != std::string_view::npos || line.starts_with("processed "))
      continue;
    if (!line.empty()) found = line;
  }
  return found.empty() ? "no further words" : found;
}

}  // namespace vmwhy::bpf
