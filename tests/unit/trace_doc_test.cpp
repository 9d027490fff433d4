// SPDX-License-Identifier: BSD-2-Clause
// docs/trace-format.md is the specification: its example is what the code writes.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "../support/temp_dir.hpp"
#include "../support/trace_samples.hpp"
#include "trace/reader.hpp"

namespace vmwhy::trace {
namespace {

// The bytes of the ```hexdump block of the page.
std::string bytes_of_page() {
  const auto page = std::filesystem::path(__FILE__).parent_path() / "../../docs/trace-format.md";
  std::istringstream in(test::read_file(page));
  std::string line, bytes;
  while (std::getline(in, line) && line != "```hexdump") {
  }
  while (std::getline(in, line) && line != "```") {
    std::istringstream words(line.substr(0, line.find('|')));
    std::string word;
    words >> word;  // The offset.
    EXPECT_TRUE(std::stoul(word, nullptr, 16) == bytes.size()) << line;
    while (words >> word) bytes += static_cast<char>(std::stoi(word, nullptr, 16));
  }
  return bytes;
}

TEST(TraceDoc, TheExampleIsWhatIsWritten) {
  const OwnedRecord record = make_record(1'000'000'000, 0, Watch{1, 0}, "started");
  const std::string page = bytes_of_page();
  EXPECT_TRUE(page == test::tiny_trace({record})) << "the hex dump of docs/trace-format.md is out of date";
  auto reader = Reader::from_bytes(page);
  ASSERT_TRUE(reader);
  const auto records = test::all_records(**reader);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_TRUE(test::same(records[0].view(), record.view()));
  EXPECT_TRUE((*reader)->report().ended);
}

}  // namespace
}  // namespace vmwhy::trace
