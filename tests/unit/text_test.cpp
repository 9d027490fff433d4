// SPDX-License-Identifier: BSD-2-Clause
#include "core/text.hpp"

#include <gtest/gtest.h>

#include <cstdint>

namespace vmwhy {
namespace {

using namespace std::string_literals;

TEST(Text, LeavesPlainAndAccentedTextAlone) {
  EXPECT_EQ(printable("disk0: é漢🙂"), "disk0: é漢🙂");
  EXPECT_EQ(printable(""), "");
}

TEST(Text, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(printable("a\x1b[2Jb\n\t\x7f\0z"s), "a\\x1b[2Jb\\x0a\\x09\\x7f\\x00z");
  EXPECT_EQ(printable("\u009b31m"), "\\u009b31m");
  EXPECT_EQ(printable("\u202eevil\u2066"), "\\u202eevil\\u2066");
  EXPECT_EQ(printable("\U000E0041"), "\\u{e0041}");
}

TEST(Text, EscapesInvalidUtf8ByteByByte) {
  EXPECT_EQ(printable("\xff\xc3("), "\\xff\\xc3(");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "a surrogate";
  EXPECT_EQ(printable("\xc0\xaf"), "\\xc0\\xaf") << "an overlong slash";
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "above U+10FFFF";
  EXPECT_EQ(printable("\xe6\xbc"), "\\xe6\\xbc") << "cut";
}

TEST(Text, CutsAtTheLimitWithoutSplittingACharacter) {
  EXPECT_EQ(printable("abcdef", 3), "abc…");
  EXPECT_EQ(printable("abc", 3), "abc");
  EXPECT_EQ(printable("aé", 2), "a…");
}

TEST(Text, JsonStaysTheSameDocument) {
  EXPECT_EQ(json_safe("{\"a\":\"é\"}"), "{\"a\":\"é\"}");
  EXPECT_EQ(json_safe("\"\u009b\x7f\u202e\""), "\"\\u009b\\u007f\\u202e\"");
  EXPECT_EQ(json_safe("\"\U000E0041\""), "\"\\udb40\\udc41\"");
  EXPECT_EQ(json_safe("\"\xff\""), "\"\\ufffd\"");
}

TEST(Text, WritesBytesInBinaryUnits) {
  EXPECT_EQ(human_bytes(0), "0 bytes");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1024), "1 KiB");
  EXPECT_EQ(human_bytes(1536u << 20), "1.5 GiB");
  EXPECT_EQ(human_bytes((1u << 20) - 1), "1 MiB") << "never 1024 KiB";
  EXPECT_EQ(human_bytes(UINT64_MAX), "16 EiB");
}

TEST(Text, WritesDurationsInAFittingUnit) {
  EXPECT_EQ(human_duration(0), "0 ns");
  EXPECT_EQ(human_duration(999), "999 ns");
  EXPECT_EQ(human_duration(12'000), "12 µs");
  EXPECT_EQ(human_duration(3'400'000), "3.4 ms");
  EXPECT_EQ(human_duration(340'000'000), "340 ms");
  EXPECT_EQ(human_duration(2'500'000'000), "2.5 s");
  EXPECT_EQ(human_duration(-2'500'000'000), "-2.5 s");
  EXPECT_EQ(human_duration(59'960'000'000), "1 min");
  EXPECT_EQ(human_duration(185'000'000'000), "3 min 5 s");
  EXPECT_EQ(human_duration(3'600'000'000'000), "1 h");
  EXPECT_EQ(human_duration(90'000'000'000'000), "1 d 1 h");
  EXPECT_FALSE(human_duration(INT64_MIN).empty());
}

TEST(Text, WritesRelativeTimesWithASign) {
  EXPECT_EQ(relative_time(-412'000'000), "-0.412s");
  EXPECT_EQ(relative_time(12'003'000'000), "+12.003s");
  EXPECT_EQ(relative_time(0), "+0.000s");
  EXPECT_EQ(relative_time(999'600'000), "+1.000s");
  EXPECT_FALSE(relative_time(INT64_MIN).empty());
}

TEST(Text, WritesIsoTimeInUtc) {
  EXPECT_EQ(iso_time(0), "1970-01-01T00:00:00.000000Z");
  EXPECT_EQ(iso_time(1'795'392'807'123'456'789), "2026-11-23T00:13:27.123456Z");
  EXPECT_EQ(iso_time(-1), "1969-12-31T23:59:59.999999Z");
  EXPECT_FALSE(iso_time(INT64_MIN).empty());
}

TEST(Text, SplitsAndTrims) {
  EXPECT_EQ(split("a,,b", ','), (std::vector<std::string_view>{"a", "", "b"}));
  EXPECT_EQ(split("", ','), (std::vector<std::string_view>{""}));
  EXPECT_EQ(trim(" \t x y\n"), "x y");
  EXPECT_EQ(trim(" \n"), "");
}

}  // namespace
}  // namespace vmwhy
