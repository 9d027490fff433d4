// SPDX-License-Identifier: BSD-2-Clause
#include "sym/executable.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gelf.h>
#include <libelf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace vmwhy::sym {
namespace {

/// An enum of QAPI has some twenty values.
constexpr std::uint32_t kMostValues = 256;
constexpr std::size_t kLongestName = 64;
constexpr std::size_t kLongestFunction = 120;
/// Of arm64.
constexpr std::uint64_t kLargestPage = 65536;
constexpr GElf_Word kStaticProbe = 3;

std::string base_name(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

std::string read_link(const std::string& path) {
  char text[4096];
  const ssize_t got = ::readlink(path.c_str(), text, sizeof(text));
  return got > 0 ? std::string(text, static_cast<std::size_t>(got)) : path;
}

/// Calls `use(section, header)` for each section of that type.
template <class Use>
void each_section(Elf* elf, std::uint32_t type, Use use) {
  for (Elf_Scn* section = elf_nextscn(elf, nullptr); section != nullptr;
       section = elf_nextscn(elf, section)) {
    GElf_Shdr header;
    if (gelf_getshdr(section, &header) != nullptr && header.sh_type == type) use(section, header);
  }
}

template <class Use>
void each_note(Elf* elf, Use use) {
  each_section(elf, SHT_NOTE, [&](Elf_Scn* section, const GElf_Shdr&) {
    Elf_Data* data = elf_getdata(section, nullptr);
    if (data == nullptr) return;
    GElf_Nhdr note;
    std::size_t name = 0, body = 0;
    for (std::size_t at = 0; (at = gelf_getnote(data, at, &note, &name, &body)) > 0;)
      use(note, static_cast<const char*>(data->d_buf) + name, static_cast<const char*>(data->d_buf) + body);
  });
}

std::string read_build_id(Elf* elf) {
  std::string out;
  each_note(elf, [&](const GElf_Nhdr& note, const char* name, const char* body) {
    if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 || std::memcmp(name, "GNU", 4) != 0) return;
    if (note.n_descsz > 64 || !out.empty()) return;
    for (std::size_t i = 0; i < note.n_descsz; ++i)
      out += fmt::format("{:02x}", static_cast<unsigned char>(body[i]));
  });
  return out;
}

/// Nothing where there is no such section.
std::optional<std::uint64_t> section_address(Elf* elf, std::string_view wanted) {
  std::size_t names = 0;
  std::optional<std::uint64_t> out;
  if (elf_getshdrstrndx(elf, &names) != 0) return out;
  each_section(elf, SHT_PROGBITS, [&](Elf_Scn*, const GElf_Shdr& header) {
    const char* name = elf_strptr(elf, names, header.sh_name);
    if (name != nullptr && name == wanted) out = header.sh_addr;
  });
  return out;
}

Elf* open_elf(int fd) {
  elf_version(EV_CURRENT);
  Elf* elf = elf_begin(fd, ELF_C_READ_MMAP, nullptr);
  if (elf == nullptr) return nullptr;
  if (elf_kind(elf) == ELF_K_ELF && gelf_getclass(elf) == ELFCLASS64) return elf;
  elf_end(elf);
  return nullptr;
}

}  // namespace

Result<std::unique_ptr<Executable>> Executable::open(const std::string& path, const std::string& debug_root) {
  std::unique_ptr<Executable> out(new Executable);
  out->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (out->fd_ < 0) return system_failure(errno, "cannot open " + path);
  out->elf_ = open_elf(out->fd_);
  if (out->elf_ == nullptr) return system_failure(ENOEXEC, path + " is no ELF file of 64 bits");
  out->path_ = read_link(path);
  out->short_name_ = base_name(out->path_);
  out->build_id_ = read_build_id(out->elf_);
  out->read_symbols(out->elf_);
  out->read_debug_file(debug_root);
  auto& functions = out->functions_;
  std::stable_sort(functions.begin(), functions.end(),
                   [](const Function& a, const Function& b) { return a.address < b.address; });
  for (std::uint32_t i = 0; i < functions.size(); ++i) out->by_name_.push_back(i);
  std::stable_sort(out->by_name_.begin(), out->by_name_.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return functions[a].name < functions[b].name; });
  return out;
}

Executable::~Executable() {
  if (elf_ != nullptr) elf_end(elf_);
  if (fd_ >= 0) ::close(fd_);
}

void Executable::read_symbols(Elf* elf) {
  const auto read = [&](Elf_Scn* section, const GElf_Shdr& header) {
    Elf_Data* data = elf_getdata(section, nullptr);
    if (data == nullptr || header.sh_entsize == 0) return;
    const auto count =
        static_cast<int>(std::min<std::uint64_t>(header.sh_size / header.sh_entsize, 4u << 20));
    for (int i = 0; i < count; ++i) {
      GElf_Sym symbol;
      if (gelf_getsym(data, i, &symbol) == nullptr || symbol.st_shndx == SHN_UNDEF) continue;
      const char* name = elf_strptr(elf, header.sh_link, symbol.st_name);
      if (name == nullptr || *name == '\0') continue;
      const int type = GELF_ST_TYPE(symbol.st_info);
      if (type == STT_FUNC) functions_.push_back({symbol.st_value, symbol.st_size, name});
      if (type == STT_OBJECT && std::string_view(name).ends_with("_lookup"))
        tables_.push_back({symbol.st_value, symbol.st_size, name});
    }
  };
  each_section(elf, SHT_DYNSYM, read);
  each_section(elf, SHT_SYMTAB, read);
}

void Executable::read_debug_file(const std::string& root) {
  if (build_id_.size() < 4) return;
  const std::string path =
      root + "/.build-id/" + build_id_.substr(0, 2) + "/" + build_id_.substr(2) + ".debug";
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (Elf* elf = open_elf(fd); elf != nullptr) {
    if (read_build_id(elf) == build_id_) read_symbols(elf);
    elf_end(elf);
  }
  ::close(fd);
}

const Executable::Function* Executable::find(std::string_view name) const {
  const auto found =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](std::uint32_t i, std::string_view wanted) { return functions_[i].name < wanted; });
  return found != by_name_.end() && functions_[*found].name == name ? &functions_[*found] : nullptr;
}

const Executable::Function* Executable::at(std::uint64_t address) const {
  auto next = std::upper_bound(functions_.begin(), functions_.end(), address,
                               [](std::uint64_t wanted, const Function& f) { return wanted < f.address; });
  while (next != functions_.begin()) {
    --next;
    if (address - next->address < next->size) return &*next;
    // Aliases stand at one address; anything that begins earlier ends earlier.
    if (next->size != 0) return nullptr;
  }
  return nullptr;
}

std::string Executable::name(std::uint64_t address) const {
  const Function* function = at(address);
  if (function == nullptr) return fmt::format("{}+{:#x}", short_name_, address);
  return fmt::format("{}+{:#x}", function->name, address - function->address);
}

std::string Executable::frame_name(std::uint64_t address, bool innermost) const {
  const Function* function = at(innermost ? address : address - 1);
  if (function == nullptr) return name(address);
  return fmt::format("{}+{:#x}", function->name.substr(0, kLongestFunction), address - function->address);
}

std::optional<std::uint64_t> Executable::file_offset(std::uint64_t address) const {
  std::size_t count = 0;
  if (elf_getphdrnum(elf_, &count) != 0) return std::nullopt;
  for (std::size_t i = 0; i < count; ++i) {
    GElf_Phdr segment;
    if (gelf_getphdr(elf_, static_cast<int>(i), &segment) == nullptr || segment.p_type != PT_LOAD) continue;
    if ((segment.p_flags & PF_X) == 0 || address < segment.p_vaddr) continue;
    if (address - segment.p_vaddr < segment.p_filesz) return address - segment.p_vaddr + segment.p_offset;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> Executable::bias(std::uint64_t begin, std::uint64_t offset) const {
  std::size_t count = 0;
  if (elf_getphdrnum(elf_, &count) != 0) return std::nullopt;
  for (std::size_t i = 0; i < count; ++i) {
    GElf_Phdr segment;
    if (gelf_getphdr(elf_, static_cast<int>(i), &segment) == nullptr || segment.p_type != PT_LOAD) continue;
    // A mapping begins at a page's beginning, a segment anywhere in it.
    if ((segment.p_flags & PF_X) == 0 || offset >= segment.p_offset + segment.p_filesz) continue;
    if (segment.p_offset > offset && segment.p_offset - offset >= kLargestPage) continue;
    return begin - offset + segment.p_offset - segment.p_vaddr;
  }
  return std::nullopt;
}

/// What the dynamic linker writes where, in a process without load bias.
void Executable::read_moves() {
  each_section(elf_, SHT_RELA, [&](Elf_Scn* section, const GElf_Shdr& header) {
    Elf_Data* data = elf_getdata(section, nullptr);
    if (data == nullptr || header.sh_entsize == 0) return;
    const auto count =
        static_cast<int>(std::min<std::uint64_t>(header.sh_size / header.sh_entsize, 4u << 20));
    for (int i = 0; i < count; ++i) {
      GElf_Rela move;
      // R_X86_64_RELATIVE and R_AARCH64_RELATIVE: no symbol, the value is the addend.
      if (gelf_getrela(data, i, &move) != nullptr && GELF_R_SYM(move.r_info) == 0)
        moves_.emplace_back(move.r_offset, static_cast<std::uint64_t>(move.r_addend));
    }
  });
  std::sort(moves_.begin(), moves_.end());
}

std::optional<std::uint64_t> Executable::pointer_at(std::uint64_t address) const {
  const auto found = std::lower_bound(moves_.begin(), moves_.end(), std::pair(address, std::uint64_t{0}));
  if (found == moves_.end() || found->first != address) return std::nullopt;
  return found->second;
}

/// At most so many bytes of what the file has at that address.
std::string_view Executable::bytes_at(std::uint64_t address, std::size_t most) const {
  std::string_view out;
  each_section(elf_, SHT_PROGBITS, [&](Elf_Scn* section, const GElf_Shdr& header) {
    if ((header.sh_flags & SHF_ALLOC) == 0 || address < header.sh_addr) return;
    const std::uint64_t at = address - header.sh_addr;
    Elf_Data* data = at < header.sh_size ? elf_getdata(section, nullptr) : nullptr;
    if (data == nullptr || data->d_buf == nullptr || at >= data->d_size) return;
    out = {static_cast<const char*>(data->d_buf) + at, std::min<std::size_t>(data->d_size - at, most)};
  });
  return out;
}

/// QAPI writes each enum as a QEnumLookup: a pointer to an array of strings, since QEMU 4.1 one to their
/// features, then how many there are, as an int.
std::vector<std::string> Executable::qapi_enum(std::string_view name) {
  std::vector<std::string> out;
  const std::string wanted = std::string(name) + "_lookup";
  const auto table =
      std::find_if(tables_.begin(), tables_.end(), [&](const Function& t) { return t.name == wanted; });
  if (table == tables_.end() || table->size < 16) return out;
  if (moves_.empty()) read_moves();
  const auto array = pointer_at(table->address);
  const std::string_view size = bytes_at(table->address + table->size - 8, 4);
  std::uint32_t count = 0;
  if (!array || size.size() != sizeof(count)) return out;
  std::memcpy(&count, size.data(), sizeof(count));
  for (std::uint64_t i = 0; i < std::min(count, kMostValues); ++i) {
    const auto text = pointer_at(*array + 8 * i);
    if (!text) return {};
    out.push_back(string_at(*text, kLongestName));
  }
  return out;
}

std::string Executable::string_at(std::uint64_t address, std::size_t most) const {
  const std::string_view bytes = bytes_at(address, most);
  return std::string(bytes.substr(0, bytes.find('\0')));
}

/// A note has three addresses (of the no-op, of .stapsdt.base, of a counter of listeners), then three
/// strings.
std::vector<StaticProbe> Executable::static_probes(std::string_view provider) const {
  std::vector<StaticProbe> out;
  // Prelinking moves it as it moves the code, but not what notes say.
  const auto base = section_address(elf_, ".stapsdt.base");
  each_note(elf_, [&](const GElf_Nhdr& note, const char* owner, const char* body) {
    if (note.n_type != kStaticProbe || note.n_namesz != 8 || std::memcmp(owner, "stapsdt", 8) != 0) return;
    std::array<std::uint64_t, 3> addresses;
    if (note.n_descsz < sizeof(addresses)) return;
    std::memcpy(addresses.data(), body, sizeof(addresses));
    std::string_view text(body + sizeof(addresses), note.n_descsz - sizeof(addresses));
    const auto take = [&text] {
      const std::string_view word = text.substr(0, text.find('\0'));
      text.remove_prefix(std::min(text.size(), word.size() + 1));
      return word;
    };
    if (take() != provider) return;
    StaticProbe probe;
    probe.name = take();
    probe.arguments = parse_probe_arguments(take());
    probe.address = addresses[0] + (base && addresses[1] != 0 ? *base - addresses[1] : 0);
    out.push_back(std::move(probe));
  });
  return out;
}

}  // namespace vmwhy::sym
