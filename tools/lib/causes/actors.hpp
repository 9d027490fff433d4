// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Who did something to a VM: a command that a tap heard, and the client that sent it.

#include <initializer_list>
#include <string_view>

#include "causes/case.hpp"
#include "causes/rule.hpp"

namespace vmwhy::causes {

/// A command of another client.
struct Act {
  const timeline::Command* command = nullptr;
  const timeline::Peer* peer = nullptr;  ///< Null where the tap could not tell.

  explicit operator bool() const { return command != nullptr; }
  /// "libvirtd (812)", or "another client".
  std::string who() const;
  /// "libvirtd (812), user root, sent stop (id "libvirt-17") on /run/web1.qmp".
  Evidence evidence() const;
  /// As docs/verdicts.md has it for sent_by.
  boost::json::object details() const;
};

/// The last of these commands that was heard in [from, until]. A word of HMP is found also where it came by
/// human-monitor-command.
Act last_act(const timeline::VmTracks& vm, std::initializer_list<std::string_view> commands,
             std::uint64_t from, std::uint64_t until);
/// Likewise the first.
Act first_act(const timeline::VmTracks& vm, std::initializer_list<std::string_view> commands,
              std::uint64_t from, std::uint64_t until);

/// A client had the VM's state written: it stopped the VM for that, or the command did so itself.
struct Saving {
  Act stop;  ///< The `stop` before it; null where the command stops the VM by itself.
  Act save;  ///< migrate into a descriptor or file, savevm, snapshot-save, dump-guest-memory; or loading.

  explicit operator bool() const { return static_cast<bool>(save); }
};
Saving find_saving(const Case& c);

/// Whether a tap listened to the monitors: then what was not heard was most likely not said.
bool tapped(const timeline::Timeline& timeline);

/// Why nobody can be named. @param look_alikes  What looks the same without a tap.
std::string no_actor(const Case& c, std::string_view look_alikes = {});

/// Puts `act` into the details, as "sender" and "sent_by", and into the evidence.
void name_actor(const Act& act, Finding& finding);

}  // namespace vmwhy::causes
