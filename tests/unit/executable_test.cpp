// SPDX-License-Identifier: BSD-2-Clause
// Functions, tables and callers of an executable: this one.

#include <gtest/gtest.h>
#include <sys/sdt.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "sym/debug_folder.hpp"
#include "sym/executable.hpp"
#include "sym/process_code.hpp"
#include "sym/unwind.hpp"
#include "tests/support/temp_dir.hpp"

// As QAPI writes an enum.
extern "C" {
struct QEnumLookup {
  const char* const* array;
  const unsigned char* features;
  const int size;
};
extern const char* const fruit_names[];
const char* const fruit_names[] = {"apple", "pear", "plum"};
extern const QEnumLookup Fruit_lookup;
const QEnumLookup Fruit_lookup = {fruit_names, nullptr, 3};

// What the callers of a function are found by: registers and stack, as a breakpoint would have them.
struct TakenSnapshot {
  std::array<std::uint64_t, 33> registers;
  std::uint64_t pc, sp;
  std::vector<std::byte> stack;
};
__attribute__((noinline)) void take_snapshot(TakenSnapshot* out) {
  ucontext_t context;
  ::getcontext(&context);
#if defined(__x86_64__)
  const auto& g = context.uc_mcontext.gregs;
  const int order[] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP,
                       REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  for (std::size_t i = 0; i < 16; ++i) out->registers[i] = static_cast<std::uint64_t>(g[order[i]]);
  out->pc = static_cast<std::uint64_t>(g[REG_RIP]);
  out->sp = static_cast<std::uint64_t>(g[REG_RSP]);
#else
  for (std::size_t i = 0; i < 31; ++i) out->registers[i] = context.uc_mcontext.regs[i];
  out->registers[31] = context.uc_mcontext.sp;
  out->pc = context.uc_mcontext.pc;
  out->sp = context.uc_mcontext.sp;
#endif
  out->stack.resize(4096);
  std::memcpy(out->stack.data(), reinterpret_cast<const void*>(out->sp), out->stack.size());
}
__attribute__((noinline)) int caller_one(TakenSnapshot* out) {
  take_snapshot(out);
  return static_cast<int>(out->stack.size());
}
__attribute__((noinline)) int caller_two(TakenSnapshot* out) {
  return caller_one(out) + 1;
}
__attribute__((noinline)) void marked(int number, const char* text) {
  DTRACE_PROBE3(orchard, fruit_picked, number, text, 7);
  asm volatile("" ::"r"(number), "r"(text));
}
}

namespace vmwhy::test {
namespace {

#if defined(__x86_64__)
constexpr std::size_t kRegisters = 16;
#else
constexpr std::size_t kRegisters = 32;
#endif

std::unique_ptr<sym::Executable> open_self() {
  auto opened = sym::Executable::open("/proc/self/exe");
  EXPECT_TRUE(opened) << to_string(opened.error());
  return opened ? std::move(*opened) : nullptr;
}

TEST(Executable, FindsItsFunctions) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  const auto* function = self->find("caller_two");
  ASSERT_NE(function, nullptr);
  EXPECT_EQ(self->at(function->address), function);
  EXPECT_EQ(self->at(function->address + function->size - 1), function);
  EXPECT_EQ(self->name(function->address + 3), "caller_two+0x3");
  EXPECT_EQ(self->find("caller_three"), nullptr);
  // What is at that place of the file is what runs here.
  const auto offset = self->file_offset(function->address);
  ASSERT_TRUE(offset);
  std::array<char, 8> in_file;
  ASSERT_EQ(::pread(self->fd(), in_file.data(), in_file.size(), static_cast<off_t>(*offset)), 8);
  EXPECT_EQ(std::memcmp(in_file.data(), reinterpret_cast<const void*>(&caller_two), in_file.size()), 0);
}

TEST(Executable, NamesAnAddressThatNoSymbolCovers) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  EXPECT_EQ(self->at(1), nullptr);
  EXPECT_TRUE(self->name(0x10).ends_with("+0x10")) << self->name(0x10);
  EXPECT_FALSE(self->file_offset(~0ULL));
}

TEST(Executable, ReadsTheNamesOfAnEnum) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  EXPECT_EQ(self->qapi_enum("Fruit"), (std::vector<std::string>{"apple", "pear", "plum"}));
  EXPECT_TRUE(self->qapi_enum("Vegetable").empty());
}

TEST(Executable, FindsItsStaticProbes) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  const auto probes = self->static_probes("orchard");
  ASSERT_EQ(probes.size(), 1U);
  EXPECT_EQ(probes[0].name, "fruit_picked");
  const auto* function = self->at(probes[0].address);
  ASSERT_NE(function, nullptr);
  EXPECT_EQ(function->name, "marked");
  ASSERT_EQ(probes[0].arguments.size(), 3U);
  using Where = sym::ProbeArgument::Where;
  EXPECT_NE(probes[0].arguments[0].where, Where::unknown);
  EXPECT_EQ(probes[0].arguments[0].bytes, -4);
  EXPECT_NE(probes[0].arguments[1].where, Where::unknown);
  EXPECT_EQ(probes[0].arguments[2].where, Where::constant);
  EXPECT_EQ(probes[0].arguments[2].number, 7);
  EXPECT_TRUE(self->static_probes("meadow").empty());
}

TEST(Executable, TellsWhatStringIsThere) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  const std::uint64_t bias = reinterpret_cast<std::uint64_t>(&caller_two) - self->find("caller_two")->address;
  EXPECT_EQ(self->string_at(reinterpret_cast<std::uint64_t>(fruit_names[1]) - bias, 64), "pear");
  EXPECT_EQ(self->string_at(reinterpret_cast<std::uint64_t>(fruit_names[0]) - bias, 3), "app");
  EXPECT_EQ(self->string_at(~0ULL - 8, 64), "");
}

TEST(Executable, RefusesWhatIsNone) {
  const TempDir dir;
  const auto missing = sym::Executable::open(dir / "missing");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code.value(), ENOENT);
  const auto text = sym::Executable::open(dir.write("text", "#!/bin/sh\n"));
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code.value(), ENOEXEC);
}

TEST(Executable, SurvivesAFileThatIsCut) {
  const TempDir dir;
  const std::string whole = read_file("/bin/ls");
  for (std::size_t length = 1; length < whole.size(); length += 1 + whole.size() / 97) {
    dir.write("cut", whole.substr(0, length));
    if (auto cut = sym::Executable::open(dir / "cut")) {
      (*cut)->qapi_enum("RunState");
      (*cut)->static_probes("libc");
      (*cut)->name(0x4000);
    }
  }
}

TEST(Executable, SurvivesAFileWhoseHeadersLie) {
  const TempDir dir;
  const std::string whole = read_file("/bin/ls");
  for (std::size_t at = 16; at < 64; ++at) {
    std::string broken = whole;
    broken[at] = static_cast<char>(0xff);
    dir.write("broken", broken);
    if (auto opened = sym::Executable::open(dir / "broken")) {
      (*opened)->qapi_enum("RunState");
      (*opened)->static_probes("libc");
      (*opened)->file_offset(0x4000);
    }
  }
}

TEST(Unwind, FindsTheCallers) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  TakenSnapshot taken;
  caller_two(&taken);
  const std::uint64_t bias = reinterpret_cast<std::uint64_t>(&caller_two) - self->find("caller_two")->address;
  const sym::Snapshot snapshot{taken.pc, taken.sp, std::span(taken.registers).first(kRegisters), taken.stack};
  const auto frames = sym::unwind(*self, bias, snapshot);
  ASSERT_GE(frames.size(), 4U);
  EXPECT_EQ(self->at(frames[0])->name, "take_snapshot");
  EXPECT_EQ(self->at(frames[1])->name, "caller_one");
  EXPECT_EQ(self->at(frames[2])->name, "caller_two");
  EXPECT_NE(self->at(frames[3])->name.find("FindsTheCallers"), std::string::npos);
  EXPECT_EQ(sym::unwind(*self, bias, snapshot, 2).size(), 2U);
}

TEST(Unwind, EndsWhereTheStackDoes) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  TakenSnapshot taken;
  caller_two(&taken);
  const std::uint64_t bias = reinterpret_cast<std::uint64_t>(&caller_two) - self->find("caller_two")->address;
  sym::Snapshot snapshot{taken.pc, taken.sp, std::span(taken.registers).first(kRegisters), {}};
  EXPECT_EQ(sym::unwind(*self, bias, snapshot).size(), 1U);
  // Rubbish on the stack leads nowhere, and does no harm.
  std::vector<std::byte> rubbish(taken.stack.size(), std::byte{0x5a});
  snapshot.stack = rubbish;
  EXPECT_GE(sym::unwind(*self, bias, snapshot).size(), 1U);
  // Nor does a pc of elsewhere.
  snapshot.pc = 0x1234;
  EXPECT_EQ(sym::unwind(*self, bias, snapshot).size(), 1U);
}

TEST(ProcessCode, TellsCodeOfFilesFromOtherMappings) {
  const auto maps = sym::parse_maps(
      "55d0-55e0 r--p 00000000 fe:01 1234                       /usr/bin/qemu\n"
      "55e0-5600 r-xp 00001000 fe:01 1234                       /usr/bin/qemu (deleted)\n"
      "7f00-7f10 r-xp 00000000 00:00 0                          [vdso]\n"
      "7f20-7f30 rwxp 00000000 00:00 0 \n"
      "garbage\n7f40-7f50 r-xp\n7f60-7f70 r-xp 00028000 08:01 77 /lib/libc.so.6");
  ASSERT_EQ(maps.size(), 2u);
  EXPECT_EQ(maps[0].begin, 0x55e0u);
  EXPECT_EQ(maps[0].end, 0x5600u);
  EXPECT_EQ(maps[0].offset, 0x1000u);
  EXPECT_EQ(maps[0].device, "fe:01");
  EXPECT_EQ(maps[0].inode, 1234u);
  EXPECT_EQ(maps[1].path, "/lib/libc.so.6");
}

TEST(ProcessCode, NamesCallersThroughALibrary) {
  // Called by the C library, which the executable called.
  static TakenSnapshot taken;
  const auto compare = [](const void* a, const void* b) {
    if (taken.stack.empty()) caller_two(&taken);
    return *static_cast<const int*>(a) - *static_cast<const int*>(b);
  };
  taken.stack.clear();
  int numbers[] = {2, 1};
  ::qsort(numbers, 2, sizeof(int), compare);
  sym::ProcessCode code;
  const auto me = static_cast<std::uint32_t>(::getpid());
  const sym::Snapshot snapshot{taken.pc, taken.sp, std::span(taken.registers).first(kRegisters), taken.stack};
  EXPECT_TRUE(code.name(me, snapshot).empty()) << "nobody has looked";
  ASSERT_TRUE(code.look(me));
  const auto frames = code.name(me, snapshot);
  ASSERT_GE(frames.size(), 5U);
  EXPECT_TRUE(frames[1].name.starts_with("caller_one+")) << frames[1].name;
  EXPECT_TRUE(frames[2].name.starts_with("caller_two+")) << frames[2].name;
  EXPECT_EQ(frames[1].build_id, open_self()->build_id());
  const auto library = std::find_if(frames.begin(), frames.end(), [&](const sym::NamedFrame& frame) {
    return frame.build_id != frames[1].build_id;
  });
  ASSERT_NE(library, frames.end());
  EXPECT_TRUE(std::any_of(library, frames.end(), [](const sym::NamedFrame& frame) {
    return frame.name.find("NamesCallersThroughALibrary_Test") != std::string::npos;
  })) << "the C library is between the two";
  code.forget(me);
  EXPECT_TRUE(code.name(me, snapshot).empty());
  EXPECT_FALSE(code.look(0x7fffffff));
}

TEST(DebugFolder, FindsFilesByBuildIdUnderAnyName) {
  const auto self = open_self();
  ASSERT_NE(self, nullptr);
  const std::string id = self->build_id();
  if (id.empty()) GTEST_SKIP() << "needs build_id: this program has none";
  const TempDir dir;
  std::filesystem::create_symlink("/proc/self/exe", dir.path() / "some-name");
  dir.write("text", "no program");
  sym::DebugFolder folder(dir.path());
  const sym::Executable* found = folder.find(id);
  ASSERT_NE(found, nullptr);
  EXPECT_TRUE(found->frame_name(self->find("caller_two")->address + 4, true).starts_with("caller_two+0x4"));
  EXPECT_EQ(folder.find("0123456789abcdef"), nullptr);
  EXPECT_EQ(folder.find(""), nullptr);
  EXPECT_EQ(folder.find("../../../etc/passwd"), nullptr);

  const TempDir other;
  std::filesystem::create_directories(other.path() / ".build-id" / id.substr(0, 2));
  std::filesystem::create_symlink("/proc/self/exe",
                                  other.path() / ".build-id" / id.substr(0, 2) / (id.substr(2) + ".debug"));
  EXPECT_NE(sym::DebugFolder(other.path()).find(id), nullptr);
}

}  // namespace
}  // namespace vmwhy::test
