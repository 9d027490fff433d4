// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Follows the kernel log (/dev/kmsg), beginning a second before it is opened. One thread: the io_context's.

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/failure.hpp"
#include "trace/record.hpp"

namespace vmwhy::host {

/// One record of /dev/kmsg: "PRIORITY,SEQUENCE,USEC,FLAGS;text\n KEY=value…".
struct KmsgLine {
  std::uint32_t severity = 0;  ///< 0..7.
  std::uint64_t sequence = 0;
  std::uint64_t stamp_us = 0;  ///< The kernel's local clock: near CLOCK_MONOTONIC, but it drifts.
  std::string text;            ///< With \xNN escapes resolved; the dictionary lines are dropped.
};
std::optional<KmsgLine> parse_kmsg(std::string_view record);

/// Turns the log's own stamps into CLOCK_BOOTTIME. The log's clock is not disciplined: after weeks it is
/// seconds away from CLOCK_MONOTONIC. A line that was waited for arrives at once, so the smallest distance
/// seen between stamp and arrival is the clocks' distance.
class KmsgClock {
 public:
  /// @param live  Whether the line was waited for, rather than found in the log.
  std::uint64_t to_boottime(std::uint64_t stamp_us, std::uint64_t arrival_ns,
                            std::uint64_t boot_minus_mono_ns, bool live);

 private:
  std::optional<std::int64_t> offset_ns_;  ///< CLOCK_MONOTONIC minus the stamp.
};

class Kmsg {
 public:
  /// Records of type kernel_log, and loss where the log was overwritten before it was read. vm is 0.
  using Handler = std::function<void(const trace::OwnedRecord&)>;

  /// Errors: errno with the remedy.
  static Result<std::unique_ptr<Kmsg>> open(boost::asio::io_context& io, Handler handler,
                                            const std::string& path = "/dev/kmsg");
  ~Kmsg();

  /// Reads what is there now, without waiting for the io_context: a collection wants the newest lines.
  void drain();

 private:
  class Impl;
  explicit Kmsg(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace vmwhy::host
