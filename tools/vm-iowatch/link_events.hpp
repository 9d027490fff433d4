// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Storage servers that do not answer, as events, lines of the table and of --json.

#include <functional>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "storage/server_links.hpp"
#include "timeline/storage_link.hpp"
#include "tools/vm-iowatch/events.hpp"

namespace vmwhy::vm_iowatch {

class LinkEvents {
 public:
  /// @param node  Only connections that serve what is, or lies under, this node; empty: all.
  LinkEvents(Events::FindVm find_vm, std::uint64_t slow_ns, std::string node, Events::Handler handler);

  /// Tells of a hang when it crosses the threshold, of an answer that took long, of a connection that is
  /// gone.
  void take(const trace::RecordView& record);
  /// Tells of the hangs that last.
  void again();
  /// The connections, as they were at the last look, with the VM's name.
  struct Line {
    std::string vm;
    timeline::StorageLink link;
  };
  std::vector<Line> lines(const std::vector<storage::ServerLinks::Link>& links) const;

 private:
  bool wanted(std::uint32_t vm, const std::string& nodes) const;
  Event event_of(std::uint32_t vm, const timeline::StorageLink& link) const;

  Events::FindVm find_vm_;
  const std::uint64_t slow_ns_;
  std::string node_;
  Events::Handler handler_;
  struct Seen {
    timeline::StorageLink link;
    std::uint64_t silent_since_ns = 0;
  };
  std::map<std::pair<std::uint32_t, std::string>, Seen> silent_;  ///< By VM, address and socket.
};

/// QEMU waits for this server, long enough to be spoken of.
bool waits(const LinkEvents::Line& line);
/// The lines of such servers. @param owner  Whose part of the table was printed last.
void print_links(std::ostream& out, const std::vector<LinkEvents::Line>& lines, std::string owner);
void print_links_json(std::ostream& out, const std::vector<LinkEvents::Line>& lines, std::uint64_t time_ns,
                      std::uint64_t window_ns);

}  // namespace vmwhy::vm_iowatch
