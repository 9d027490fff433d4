// SPDX-License-Identifier: BSD-2-Clause
#include "fake_proc.hpp"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace vmwhy::test {

namespace fs = std::filesystem;

FakeProc::FakeProc() : path_(dir_.path().string()) {
  fs::create_directories(path_ + "/self/ns");
  for (const char* kind : {"mnt", "pid", "net"})
    fs::create_symlink(std::string(kind) + ":[1]", path_ + "/self/ns/" + kind);
}

std::string FakeProc::file(std::uint32_t pid, const std::string& name) const {
  return path_ + "/" + std::to_string(pid) + "/" + name;
}

void FakeProc::write(std::uint32_t pid, const std::string& name, const std::string& content) const {
  const fs::path path = file(pid, name);
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

void FakeProc::link(std::uint32_t pid, const std::string& name, const std::string& target) const {
  const fs::path path = file(pid, name);
  fs::create_directories(path.parent_path());
  fs::remove(path);
  fs::create_symlink(target, path);
}

void FakeProc::add_thread(std::uint32_t pid, std::uint32_t tid, const std::string& comm) const {
  write(pid, "task/" + std::to_string(tid) + "/comm", comm + "\n");
}

void FakeProc::add(std::uint32_t pid, const std::string& comm, const std::string& executable,
                   const std::vector<std::string>& arguments, std::uint64_t start_ticks) const {
  std::string stat = std::to_string(pid) + " (" + comm + ") S 1";
  for (int field = 5; field < 22; ++field) stat += " 0";
  write(pid, "stat", stat + " " + std::to_string(start_ticks) + " 0 0\n");
  write(pid, "comm", comm + "\n");
  std::string line;
  for (const std::string& argument : arguments) line += argument + '\0';
  write(pid, "cmdline", line);
  write(pid, "net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n");
  add_thread(pid, pid, comm);
  fs::create_directories(file(pid, "fd"));
  if (!executable.empty()) link(pid, "exe", executable);
  for (const char* kind : {"mnt", "pid", "net"})
    link(pid, std::string("ns/") + kind, std::string(kind) + ":[1]");
}

void FakeProc::hang_cmdline(std::uint32_t pid) const {
  fs::remove(file(pid, "cmdline"));
  ::mkfifo(file(pid, "cmdline").c_str(), 0600);
}

}  // namespace vmwhy::test
