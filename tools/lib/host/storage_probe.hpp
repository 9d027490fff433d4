// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Asks the storage of VMs how it is, without ever waiting for it: a helper process, forked before any thread
// exists, looks at each file in a child of its own and gives up on a child that does not answer in time. A
// hung file system holds that child and nobody else. The child is left behind (the kernel does not let it be
// killed), at most kMaxStuck of them; beyond that the answer is "not reached" at once.
// One thread: the io_context's.

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/failure.hpp"
#include "host/node_file.hpp"

namespace vmwhy::host {

class StorageProbe {
 public:
  static constexpr std::size_t kMaxStuck = 16;

  struct NodeAnswer {
    bool reached = false;  ///< False: no answer in time, or too many children are stuck already.
    NodeFacts facts;       ///< facts.file.flags has kNodeUnreachable where it was not reached.
  };
  struct TailAnswer {
    bool reached = false;
    Tail tail;
  };

  /// Forks the helper. To be called before the process has threads, or files that a helper must not hold.
  /// Errors: errno of socketpair or fork.
  static Result<std::unique_ptr<StorageProbe>> start();
  /// The helper ends with it. Handlers are dropped.
  ~StorageProbe();
  StorageProbe(const StorageProbe&) = delete;
  StorageProbe& operator=(const StorageProbe&) = delete;

  /// From now on answers arrive on this io_context. Once.
  void attach(boost::asio::io_context& io);

  /// Looks at a node's file; see look_at_node.
  void look(std::uint32_t pid, const std::string& path, std::chrono::milliseconds deadline,
            std::function<void(const NodeAnswer&)> handler);
  /// Reads the end of a log file.
  void tail(std::uint32_t pid, const std::string& path, std::chrono::milliseconds deadline,
            std::function<void(const TailAnswer&)> handler);

  /// Process id of the helper; for tests.
  std::uint32_t helper_pid() const;

 private:
  class Impl;
  explicit StorageProbe(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::host
