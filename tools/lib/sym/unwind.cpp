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

struct Place {
  const Module* module;
  std::uint64_t begin, end;  ///< In the process.
};

struct Walk {
  const Snapshot& snapshot;
  std::size_t limit;
  std::vector<Place> places;
  std::vector<Frame> found;
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
  const auto place = std::find_if(walk.places.begin(), walk.places.end(),
                                  [&](const Place& p) { return pc >= p.begin && pc < p.end; });
  if (place == walk.places.end() || walk.found.size() >= walk.limit) return DWARF_CB_ABORT;
  walk.found.push_back({place->module->executable, pc - place->module->bias});
  return DWARF_CB_OK;
}

int find_no_file(Dwfl_Module*, void**, const char*, Dwarf_Addr, char**, Elf**) {
  return -1;
}
int find_no_debug_file(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*, GElf_Word,
                       char**) {
  return -1;
}

void report(Dwfl* dwfl, const Module& module, Walk& walk) {
  // It closes the descriptor that it is given. Addresses tell modules apart, names have to be there.
  const int fd = ::dup(module.executable->fd());
  Dwfl_Module* reported = dwfl_report_elf(dwfl, module.executable->path().c_str(),
                                          module.executable->path().c_str(), fd, module.bias, true);
  if (reported == nullptr) {
    if (fd >= 0) ::close(fd);
    return;
  }
  Dwarf_Addr begin = 0, end = 0;
  dwfl_module_info(reported, nullptr, &begin, &end, nullptr, nullptr, nullptr, nullptr);
  walk.places.push_back({&module, begin, end});
}

}  // namespace

std::vector<Frame> unwind(std::span<const Module> modules, const Snapshot& snapshot, std::size_t limit) {
  // Neither the network nor the file system is asked for anything else.
  static constexpr Dwfl_Callbacks kCallbacks = {find_no_file, find_no_debug_file, nullptr, nullptr};
  static constexpr Dwfl_Thread_Callbacks kThreadCallbacks = {next_thread,   nullptr, read_memory,
                                                             set_registers, nullptr, nullptr};
  Walk walk{snapshot, limit, {}, {}};
  Dwfl* dwfl = dwfl_begin(&kCallbacks);
  if (dwfl == nullptr) return {};
  dwfl_report_begin(dwfl);
  for (const Module& module : modules) report(dwfl, module, walk);
  dwfl_report_end(dwfl, nullptr, nullptr);
  if (!walk.places.empty() && dwfl_attach_state(dwfl, nullptr, kThread, &kThreadCallbacks, &walk))
    dwfl_getthread_frames(dwfl, kThread, on_frame, &walk);
  dwfl_end(dwfl);
  return std::move(walk.found);
}

std::vector<std::uint64_t> unwind(const Executable& executable, std::uint64_t bias, const Snapshot& snapshot,
                                  std::size_t limit) {
  const Module module{&executable, bias};
  std::vector<std::uint64_t> out;
  for (const Frame& frame : unwind(std::span(&module, 1), snapshot, limit)) out.push_back(frame.address);
  if (out.empty()) out.push_back(snapshot.pc - bias);
  return out;
}

}  // namespace vmwhy::sym
