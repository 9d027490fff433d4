// SPDX-License-Identifier: BSD-2-Clause
#include "sym/unwind.hpp"

#include <elfutils/libdwfl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace vmwhy::sym {
namespace {

/// libdw wants a thread to unwind; any number will do.
constexpr pid_t kThread = 1;

struct Walk {
  const Snapshot& snapshot;
  std::uint64_t bias, begin, end;  ///< Of the executable, in the process.
  std::size_t limit;
  std::vector<std::uint64_t> found;
};

pid_t next_thread(Dwfl*, void* argument, void** thread) {
  if (*thread != nullptr) return 0;
  *thread = argument;
  return kThread;
}

bool read_memory(Dwfl*, Dwarf_Addr address, Dwarf_Word* result, void* argument) {
  const Snapshot& snapshot = static_cast<Walk*>(argument)->snapshot;
  if (address < snapshot.sp || address - snapshot.sp > snapshot.stack.size()) return false;
  const std::uint64_t at = address - snapshot.sp;
  if (snapshot.stack.size() - at < sizeof(*result)) return false;
  std::memcpy(result, snapshot.stack.data() + at, sizeof(*result));
  return true;
}

bool set_registers(Dwfl_Thread* thread, void* argument) {
  const Snapshot& snapshot = static_cast<Walk*>(argument)->snapshot;
  if (!dwfl_thread_state_registers(thread, 0, static_cast<unsigned>(snapshot.registers.size()),
                                   snapshot.registers.data()))
    return false;
  dwfl_thread_state_register_pc(thread, snapshot.pc);
  return true;
}

int on_frame(Dwfl_Frame* frame, void* argument) {
  Walk& walk = *static_cast<Walk*>(argument);
  Dwarf_Addr pc = 0;
  if (!dwfl_frame_pc(frame, &pc, nullptr)) return DWARF_CB_ABORT;
  if (pc < walk.begin || pc >= walk.end || walk.found.size() >= walk.limit) return DWARF_CB_ABORT;
  walk.found.push_back(pc - walk.bias);
  return DWARF_CB_OK;
}

int find_no_file(Dwfl_Module*, void**, const char*, Dwarf_Addr, char**, Elf**) {
  return -1;
}
int find_no_debug_file(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*, GElf_Word,
                       char**) {
  return -1;
}

}  // namespace

std::vector<std::uint64_t> unwind(const Executable& executable, std::uint64_t bias, const Snapshot& snapshot,
                                  std::size_t limit) {
  // Neither the network nor the file system is asked for anything else.
  static constexpr Dwfl_Callbacks kCallbacks = {find_no_file, find_no_debug_file, nullptr, nullptr};
  static constexpr Dwfl_Thread_Callbacks kThreadCallbacks = {next_thread,   nullptr, read_memory,
                                                             set_registers, nullptr, nullptr};
  Walk walk{snapshot, bias, 0, 0, limit, {}};
  if (Dwfl* dwfl = dwfl_begin(&kCallbacks); dwfl != nullptr) {
    dwfl_report_begin(dwfl);
    // It closes the descriptor that it is given.
    const int fd = ::dup(executable.fd());
    Dwfl_Module* module = dwfl_report_elf(dwfl, "executable", executable.path().c_str(), fd, bias, true);
    if (module == nullptr && fd >= 0) ::close(fd);
    dwfl_report_end(dwfl, nullptr, nullptr);
    if (module != nullptr) {
      Dwarf_Addr begin = 0, end = 0;
      dwfl_module_info(module, nullptr, &begin, &end, nullptr, nullptr, nullptr, nullptr);
      walk.begin = begin;
      walk.end = end;
      if (dwfl_attach_state(dwfl, nullptr, kThread, &kThreadCallbacks, &walk))
        dwfl_getthread_frames(dwfl, kThread, on_frame, &walk);
    }
    dwfl_end(dwfl);
  }
  if (walk.found.empty()) walk.found.push_back(snapshot.pc - bias);
  return std::move(walk.found);
}

}  // namespace vmwhy::sym
