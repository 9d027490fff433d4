// SPDX-License-Identifier: BSD-2-Clause
#include "elf_edit.hpp"

#include <elf.h>

#include <cstring>
#include <fstream>
#include <stdexcept>

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

}  // namespace vmwhy::test
