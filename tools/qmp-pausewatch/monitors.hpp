// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which of a VM's monitors is ours to connect to: one that is nobody's. A monitor takes one client, and its
// owner may come back to it.

#include <map>
#include <string>

#include "qmp/discovery.hpp"

namespace vmwhy::qmp_pausewatch {

/// Who holds a monitor, where that cannot be told.
inline constexpr const char* kSomebody = "another client";

class Monitors {
 public:
  /// @param process  Must outlive it; what discovery learns of it later counts too.
  explicit Monitors(const qmp::QemuProcess& process) : process_(process) {}

  /// The monitor that `text` names, as discovery calls it: the analysis compares their addresses.
  std::string named(const std::string& text) const;
  /// Who but us holds this monitor now: "libvirtd (pid 812)"; empty: nobody, as far as can be told.
  std::string held_by(const std::string& place) const;
  /// Those that others hold now are left to them from here on.
  void note_holders();
  void leave_to(const std::string& place, const std::string& holder) { others_[place] = holder; }
  bool is_of_another(const std::string& place) const { return others_.contains(place); }
  /// The first that was left to another client, and that client; "": none was.
  std::string of_another() const { return others_.empty() ? std::string() : others_.begin()->first; }
  std::string holder() const { return others_.empty() ? std::string() : others_.begin()->second; }
  /// The first that is nobody's; "" if there is none.
  std::string nobodys() const;
  /// Why none is our own, as a sentence without its end.
  std::string why_none() const;

 private:
  const qmp::QemuProcess& process_;
  /// Monitors that another client was seen to hold, and who. They stay its own when it leaves them.
  std::map<std::string, std::string> others_;
};

}  // namespace vmwhy::qmp_pausewatch
