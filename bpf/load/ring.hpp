// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Drains a BPF ring buffer inside an io_context, through the ring's epoll descriptor. One thread: the
// io_context's.

#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <functional>
#include <memory>

#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

class RingReader {
 public:
  /// One message. It belongs to the ring and is valid within the call. Must not throw.
  using OnMessage = std::function<void(const void* data, std::size_t bytes)>;

  /// @param map_fd  Of the ring buffer map; stays the caller's.
  static Result<std::unique_ptr<RingReader>> create(int map_fd, OnMessage on_message);
  ~RingReader();

  /// Begins to read whenever the kernel wakes us. The io_context must outlive the reader.
  void start(boost::asio::io_context& io);
  void stop();
  /// Reads what is there now, at most `limit` messages. Returns how many.
  std::size_t drain(std::size_t limit = SIZE_MAX);

 private:
  class Impl;
  explicit RingReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::bpf
