// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// --on CONDITION --then ACTION of kvm-stalls: what a user wants to be done the moment a stall, a signal or an
// end is told. One thread.

#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "act/action.hpp"
#include "act/command.hpp"
#include "tools/kvm-stalls/model.hpp"

namespace vmwhy::kvm_stalls {

struct Condition {
  enum class Kind {
    stall,   ///< stall=STATE|any: a stall is told for the first time, most of which was in this state.
    signal,  ///< signal=NAME|any: such a signal was sent to a QEMU.
    end,     ///< A QEMU ended.
  } kind = Kind::stall;
  std::optional<stalls::State> state;  ///< Of a stall; none: any.
  std::string name;                    ///< Of a signal; empty: any.

  static Result<Condition> parse(std::string_view text);
  std::string to_string() const;
};

struct Reaction {
  Condition condition;
  act::Action action;
};
/// Each --on needs a --then; one is enough for all. A snapshot is no action here: each stall is recorded.
Result<std::vector<Reaction>> pair_reactions(const std::vector<std::string>& on,
                                             const std::vector<std::string>& then);

/// Does what was asked for.
class Reactions {
 public:
  /// @param trace  Its path; empty: none.
  Reactions(const std::vector<Reaction>& reactions, std::string trace, std::ostream& err)
      : reactions_(reactions), trace_(std::move(trace)), err_(err) {}

  void on_stall(const stalls::Stall& stall, const std::string& vm_name);
  void on_signal(const Signal& signal, const std::string& vm_name);
  void on_end(std::uint32_t pid, const std::string& vm_name, const std::string& text);
  /// An action said exit.
  bool exit_wanted() const { return exit_wanted_; }
  void reap() { commands_.reap(); }

 private:
  struct What {
    std::uint32_t pid;
    const std::string& vm_name;
    std::string text;
  };
  void fire(const Reaction& reaction, const What& what);

  const std::vector<Reaction>& reactions_;
  std::string trace_;
  std::ostream& err_;
  act::Commands commands_;
  bool exit_wanted_ = false;
};

}  // namespace vmwhy::kvm_stalls
