// SPDX-License-Identifier: BSD-2-Clause
#include "elf_edit.hpp"

#include <elf.h>

#include <array>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "child_process.hpp"
#include "temp_dir.hpp"

namespace vmwhy::test {
namespace {

template <class T>
T at(const std::string& file, std::size_t offset) {
  T out;
  if (offset + sizeof(T) > file.size()) throw std::runtime_error("an ELF file that is cut short");
  std::memcpy(&out, file.data() + offset, sizeof(T));
  return out;
}

}  // namespace

std::size_t take_names(const std::string& path, const std::function<bool(std::string_view)>& wanted) {
  std::string file = read_file(path);
  const auto header = at<Elf64_Ehdr>(file, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
    throw std::runtime_error(path + " is no ELF file of 64 bits");
  const auto section = [&](std::size_t i) {
    return at<Elf64_Shdr>(file, header.e_shoff + i * header.e_shentsize);
  };
  std::size_t taken = 0;
  for (std::size_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr symbols = section(i);
    if (symbols.sh_type != SHT_DYNSYM) continue;
    const Elf64_Shdr names = section(symbols.sh_link);
    for (std::size_t where = 0; where < symbols.sh_size; where += sizeof(Elf64_Sym)) {
      auto symbol = at<Elf64_Sym>(file, symbols.sh_offset + where);
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) continue;
      const std::string name = file.c_str() + names.sh_offset + symbol.st_name;
      if (!wanted(name)) continue;
      symbol.st_name = 0;
      std::memcpy(file.data() + symbols.sh_offset + where, &symbol, sizeof(symbol));
      ++taken;
    }
  }
  std::ofstream(path, std::ios::binary) << file;
  return taken;
}

void add_static_probe(const std::string& path, const std::string& name, std::uint64_t address,
                      const std::string& arguments) {
  const auto bytes_of = [](const auto& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  std::string body = bytes_of(std::array<std::uint64_t, 3>{address, 0, 0});
  for (const std::string& text : {std::string("qemu"), name, arguments}) body.append(text).push_back('\0');
  const Elf64_Nhdr header{8, static_cast<Elf64_Word>(body.size()), 3};
  body.resize((body.size() + 3) / 4 * 4);
  const TempDir dir;
  dir.write("note", bytes_of(header) + std::string("stapsdt\0", 8) + body);
  const Output output = run_program({"objcopy", "--add-section", ".note.stapsdt=" + (dir / "note"), path});
  if (output.status.code != 0) throw std::runtime_error(output.err);
}

}  // namespace vmwhy::test
