// The part of frs_kernels._host about the tasks of the CPU kernels.
#pragma once

#include <pybind11/pybind11.h>

namespace frs {

void define_tasks(pybind11::module_& m);

}  // namespace frs
