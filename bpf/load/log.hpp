// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Keeps what libbpf says while it lives, instead of letting it print to stderr. One at a time may be the
// innermost.

#include <string>

namespace vmwhy::bpf {

class LogCapture {
 public:
  LogCapture();
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  /// The most telling line: the verifier's last complaint, or libbpf's last warning; "no further words"
  /// without one.
  std::string last() const;
  const std::string& text() const { return text_; }

  /// VMWHY_BPF_DEBUG=1 in the environment prints everything to stderr as well.
  void add(const char* line);

 private:
  LogCapture* outer_;
  std::string text_;
};

}  // namespace vmwhy::bpf
