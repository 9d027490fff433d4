// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// An ELF executable: where its functions are, and what is at an address. Reads .dynsym, .symtab, and .symtab
// of its debug file where that is installed (/usr/lib/debug/.build-id). Addresses are those of the file; in a
// running process they are moved by its load bias. Safe with any file. One thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/failure.hpp"
#include "sym/static_probe.hpp"

struct Elf;

namespace vmwhy::sym {

class Executable {
 public:
  struct Function {
    std::uint64_t address, size;
    std::string name;
  };

  /// @param path  /proc/PID/exe is as good as any.
  /// @param debug_root  Where debug files lie, as .build-id/xx/yyyy.debug.
  /// Errors: errno of the file; ENOEXEC: it is no ELF file of 64 bits.
  static Result<std::unique_ptr<Executable>> open(const std::string& path,
                                                  const std::string& debug_root = "/usr/lib/debug");
  ~Executable();
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;

  const Function* find(std::string_view name) const;
  /// The function that `address` lies in; null where no symbol covers it.
  const Function* at(std::uint64_t address) const;
  /// "vm_stop+0x1c", "qemu-system-x86_64+0x5d5f70".
  std::string name(std::uint64_t address) const;
  /// The same of a frame of a stack. Where a caller goes on stands behind its call, which may be another
  /// function's first instruction. A long name is cut.
  std::string frame_name(std::uint64_t address, bool innermost) const;
  /// Where that address is in the file; nothing where it is in no segment of code.
  std::optional<std::uint64_t> file_offset(std::uint64_t address) const;
  /// What a process that has mapped code of the file, from `offset` on, at `begin` adds to its addresses.
  /// Nothing where no segment of code is there.
  std::optional<std::uint64_t> bias(std::uint64_t begin, std::uint64_t offset) const;
  /// Names of the values of QAPI's enum `name` ("RunState"), as the table NAME_lookup of this build has them.
  /// Empty where there is none.
  std::vector<std::string> qapi_enum(std::string_view name);
  /// The static probes that `provider` ("qemu") marked: each place has its own, also where code was inlined.
  std::vector<StaticProbe> static_probes(std::string_view provider) const;
  /// The string that the file has at that address, at most so many bytes of it; "" where it has nothing.
  std::string string_at(std::uint64_t address, std::size_t most) const;
  /// In hexadecimal digits; "" without one.
  const std::string& build_id() const { return build_id_; }
  const std::string& path() const { return path_; }
  /// For libdw. Stays ours, with the descriptor.
  int fd() const { return fd_; }

 private:
  Executable() = default;
  void read_symbols(Elf* elf);
  void read_debug_file(const std::string& root);
  void read_moves();
  std::optional<std::uint64_t> pointer_at(std::uint64_t address) const;
  std::string_view bytes_at(std::uint64_t address, std::size_t most) const;

  int fd_ = -1;
  Elf* elf_ = nullptr;
  std::string path_, short_name_, build_id_;
  std::vector<Function> functions_;                             ///< By address.
  std::vector<std::uint32_t> by_name_;                          ///< Indexes of functions_.
  std::vector<Function> tables_;                                ///< Objects named …_lookup.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> moves_;  ///< Relative relocations; read when needed.
};

}  // namespace vmwhy::sym
