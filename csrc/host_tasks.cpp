// The tasks of the CPU kernels, for tests and for benchmarks/cpu_schedule.py: the plan of a call of the
// operator `loss`, and the region that runs it, in threads of its own instead of torch's.
#include "host_tasks.h"

#include <pybind11/stl.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "cpu/loss_plan.h"
#include "cpu/tasks.h"

namespace frs {
namespace {

namespace py = pybind11;

using LevelShape = std::tuple<int64_t, int64_t, int64_t, int64_t>;  // batch, features, logits, locations
// kind, level, image, channel, channels, location, locations, index of the first partial sum
using TaskTuple = std::tuple<std::string, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

// The plan of a call whose tensors are described by their shapes. Nothing reads the tensors.
class ShapePlan {
 public:
  ShapePlan(const std::vector<LevelShape>& shapes, const std::string& mode, bool channel_major, int threads,
            int normalizer) {
    if (shapes.size() > kMaxLevels) throw py::value_error("too many levels");
    if (threads < 1) throw py::value_error("threads has to be at least 1");
    params_.mode = mode_of(mode);
    params_.normalizer = static_cast<Normalizer>(normalizer);
    for (const auto& [batch, features, logits, locations] : shapes) {
      Level& level = params_.levels[params_.num_levels++];
      level.batch = batch;
      level.locations = locations;
      level.imitation = term(features, locations, channel_major);
      level.head = term(logits, locations, channel_major);
    }
    plan = std::make_unique<cpu::LossPlan>(params_, DTypes{}, threads);
  }

  std::vector<TaskTuple> tasks() const {
    std::vector<TaskTuple> result;
    for (const cpu::Task& task : plan->tasks) {
      const cpu::Tile& t = task.tile;
      const char* kind = task.pass == cpu::Pass::mask               ? "mask"
                         : task.pass == cpu::Pass::single           ? "single"
                         : task.term == &plan->levels[t.level].head ? "head"
                                                                    : "imitation";
      result.emplace_back(kind, t.level, t.image, t.channel, t.channels, t.location, t.locations,
                          task.first_sum);
    }
    return result;
  }

  std::unique_ptr<cpu::LossPlan> plan;

 private:
  static Mode mode_of(const std::string& name) {
    if (name == "mask_given") return Mode::mask_given;
    if (name == "mask_first") return Mode::mask_first;
    if (name == "single_pass") return Mode::single_pass;
    throw py::value_error("mode is mask_given, mask_first or single_pass, not " + name);
  }

  Term term(int64_t channels, int64_t locations, bool channel_major) {
    Term result;
    if (channels == 0) return result;
    TensorView& view = result.student;
    view.data = this;  // present
    view.stride_b = channels * locations;
    view.stride_c = channel_major ? 1 : locations;
    view.stride_l = channel_major ? channels : 1;
    result.teacher = view;
    if (params_.mode != Mode::single_pass) result.grad = view;
    result.channels = channels;
    return result;
  }

  LossParams params_;
};

// `count` threads, each started for the region and joined at its end.
cpu::Threads std_threads(int count) {
  return {count, [](int workers, void (*body)(void*), void* context) {
            std::vector<std::thread> threads;
            for (int i = 1; i < workers; ++i) threads.emplace_back(body, context);
            body(context);
            for (std::thread& thread : threads) thread.join();
          }};
}

// How often each of `count` tasks ran.
std::vector<int> run_tasks(int64_t count, int threads) {
  std::vector<std::atomic<int>> runs(count);
  cpu::run_tasks(count, std_threads(threads), [&](int64_t i) { runs[i].fetch_add(1); });
  return {runs.begin(), runs.end()};
}

// Each level has `tasks` tasks that add up to its result, and then as many that wait for it. How many of the
// latter saw another result than the sum.
int64_t run_latched_tasks(int levels, int64_t tasks, int threads) {
  struct Level {
    cpu::Latch latch;
    std::vector<int64_t> parts;
    int64_t result = 0;  // written by the last task, and no atomic
  };
  std::vector<Level> states(levels);
  for (Level& level : states) {
    level.latch.expect(tasks);
    level.parts.resize(tasks);
  }
  std::atomic<int64_t> wrong{0};
  cpu::run_tasks(levels * tasks * 2, std_threads(threads), [&](int64_t i) {
    Level& level = states[i / (2 * tasks)];
    const int64_t index = i % (2 * tasks);
    if (index >= tasks) {
      level.latch.wait();
      wrong += level.result != tasks * (tasks + 1) / 2;
      return;
    }
    std::this_thread::yield();  // so that others are likely to wait
    level.parts[index] = index + 1;
    if (!level.latch.count_down()) return;
    for (int64_t part : level.parts) level.result += part;
    level.latch.open();
  });
  return wrong;
}

}  // namespace

void define_tasks(py::module_& m) {
  const auto without_gil = py::call_guard<py::gil_scoped_release>();
  m.def(
      "loss_tasks",
      [](const std::vector<LevelShape>& levels, const std::string& mode, bool channel_major, int threads,
         int normalizer) { return ShapePlan(levels, mode, channel_major, threads, normalizer).tasks(); },
      py::arg("levels"), py::arg("mode"), py::arg("channel_major"), py::arg("threads"),
      py::arg("normalizer") = static_cast<int>(Normalizer::mask));
  m.def(
      "loss_plan_sizes",  // tasks, sums over runs, sums over segments; for timings of the plan too
      [](const std::vector<LevelShape>& levels, const std::string& mode, bool channel_major, int threads,
         int normalizer) {
        const ShapePlan shapes(levels, mode, channel_major, threads, normalizer);
        return std::make_tuple(shapes.plan->tasks.size(), shapes.plan->runs, shapes.plan->segments);
      },
      py::arg("levels"), py::arg("mode"), py::arg("channel_major"), py::arg("threads"),
      py::arg("normalizer") = static_cast<int>(Normalizer::mask));
  m.def("run_tasks", run_tasks, py::arg("count"), py::arg("threads"), without_gil);
  m.def("run_latched_tasks", run_latched_tasks, py::arg("levels"), py::arg("tasks"), py::arg("threads"),
        without_gil);
  m.def(
      "run_empty_tasks",  // for timings of the counter
      [](int64_t count, int threads) { cpu::run_tasks(count, std_threads(threads), [](int64_t) {}); },
      py::arg("count"), py::arg("threads"), without_gil);
}

}  // namespace frs
