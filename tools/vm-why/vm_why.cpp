// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-why/vm_why.hpp"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <memory>
#include <ostream>

#include "causes/analysis.hpp"
#include "cli/cli.hpp"
#include "core/text.hpp"
#include "render/render.hpp"
#include "stalls/times.hpp"
#include "sym/debug_folder.hpp"
#include "trace/reader.hpp"

namespace vmwhy::vm_why {
namespace {

/// Of a thread_stall's text.
constexpr std::size_t kUserStackField = 6;

struct Answer {
  causes::TraceSummary summary;
  std::vector<causes::Incident> incidents;
  bool damaged = false;  ///< Some of the trace could not be read.
};

/// The text of a record of a stall with its frames named by what lies in `folder`.
std::string renamed(std::string_view text, sym::DebugFolder& folder) {
  std::vector<stalls::UserFrame> frames = stalls::parse_frames(trace::text_field(text, kUserStackField));
  for (stalls::UserFrame& frame : frames) {
    const sym::Executable* executable = folder.find(frame.build_id);
    const bool innermost = &frame == &frames.front();
    if (executable != nullptr && executable->at(innermost ? frame.address : frame.address - 1) != nullptr)
      frame.name = executable->frame_name(frame.address, innermost);
  }
  std::string out;
  std::size_t field = 0;
  for (const std::string_view part : split(text, '\0')) {
    if (field != 0) out += '\0';
    out += field == kUserStackField ? stalls::join_frames(frames) : std::string(part);
    ++field;
  }
  return out;
}

Result<Answer> judge_file(const std::string& path, sym::DebugFolder* folder) {
  auto opened = trace::Reader::open(path);
  if (!opened) return opened.error();
  trace::Reader& reader = **opened;
  causes::Analysis analysis;
  for (bool more = true; more;) {
    switch (reader.next_block()) {
      case trace::Reader::Step::records:
        reader.visit([&](const trace::RecordView& record) {
          if (folder == nullptr || record.type() != trace::ThreadStall::kType) return analysis.add(record);
          const std::string text = renamed(record.text, *folder);
          analysis.add(trace::RecordView{record.header, record.fixed, text});
        });
        break;
      case trace::Reader::Step::meta:
        analysis.add_meta(reader.meta());
        break;
      case trace::Reader::Step::end:
        more = false;
        break;
    }
  }
  analysis.finish();
  Answer answer{analysis.summary(), analysis.judge_all()};
  answer.summary.trace = path;
  const trace::ReadReport& report = reader.report();
  answer.damaged = !report.ended || report.damaged_bytes > 0 || report.skipped_blocks > 0;
  answer.summary.lost_records = std::max(answer.summary.lost_records, report.lost);
  answer.summary.notes.insert(answer.summary.notes.begin(), report.notes.begin(), report.notes.end());
  return answer;
}

bool is_wanted(const causes::Incident& incident, const Options& options) {
  if (options.incident != 0 && incident.id != options.incident) return false;
  return options.vm.empty() || incident.vm.name == options.vm || incident.vm.uuid == options.vm ||
         std::to_string(incident.vm.pid) == options.vm || std::to_string(incident.vm.id) == options.vm;
}

void print(std::ostream& out, const Answer& answer, const Options& options) {
  const render::TextStyle style{options.color, 100};
  if (options.files.size() > 1) out << printable(answer.summary.trace) << ":\n";
  render::notes(out, answer.summary, style);
  if (answer.incidents.empty() && options.vm.empty() && options.incident == 0)
    out << "no pause, stall or end of a VM is in " << (answer.damaged ? "what could be read" : "this trace")
        << '\n';
  for (const causes::Incident& incident : answer.incidents) {
    if (answer.incidents.size() > 1) out << '#' << incident.id << ' ';
    render::report(out, incident, style);
    if (&incident != &answer.incidents.back()) out << '\n';
  }
}

}  // namespace

int run(const Options& options, std::ostream& out, std::ostream& err) {
  bool failed = false, found = false;
  std::unique_ptr<sym::DebugFolder> folder;
  if (!options.debug_dir.empty()) {
    std::error_code error;
    if (!std::filesystem::is_directory(options.debug_dir, error)) {
      err << "vm-why: " << printable(options.debug_dir) << " is no folder\n";
      return cli::kUsage;
    }
    folder = std::make_unique<sym::DebugFolder>(options.debug_dir);
  }
  for (const std::string& path : options.files) {
    Result<Answer> answer = judge_file(path, folder.get());
    if (!answer) {
      err << "vm-why: " << printable(to_string(answer.error())) << '\n';
      failed = true;
      continue;
    }
    std::erase_if(answer->incidents, [&](const auto& incident) { return !is_wanted(incident, options); });
    found = found || !answer->incidents.empty();
    if (options.json) {
      out << boost::json::serialize(render::to_json(answer->summary, answer->incidents)) << '\n';
    } else {
      if (&path != &options.files.front()) out << '\n';
      print(out, *answer, options);
    }
  }
  if (!found && !failed && (!options.vm.empty() || options.incident != 0)) {
    err << "vm-why: no such incident in what was read; vm-why without --vm and --incident lists all\n";
    failed = true;
  }
  if (failed) return cli::kFailed;
  return options.exit_code && found ? cli::kFound : cli::kOk;
}

}  // namespace vmwhy::vm_why
