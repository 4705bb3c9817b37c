// chainrule._kernels: the NumPy door to libchainrule. Checks, views and the GIL; no arithmetic.
#include "arrays.hpp"

void bind_attention(py::module_ &m);
void bind_conditionals(py::module_ &m);
void bind_elementwise(py::module_ &m);
void bind_layers(py::module_ &m);
void bind_masked(py::module_ &m);
void bind_nade(py::module_ &m);
void bind_wavenet(py::module_ &m);

const chainrule_api &api() {
  static const chainrule_api *table = chainrule_get_api(CHAINRULE_ABI_VERSION);
  if (!table) throw py::import_error(chainrule_load_error());
  return *table;
}

PYBIND11_MODULE(_kernels, m) {
  m.doc() = "Kernels of chainrule on NumPy arrays; chainrule.kernels is the public face.";
  m.attr("version") = api().version;
  m.attr("isa") = api().isa;
  m.attr("abi_version") = api().abi_version;
  m.attr("compiler") = __VERSION__;
  m.def("get_num_threads", [] { return api().get_num_threads(); });
  m.def("set_num_threads", [](int n) { api().set_num_threads(n); }, py::arg("n"));
  bind_attention(m);
  bind_conditionals(m);
  bind_elementwise(m);
  bind_layers(m);
  bind_masked(m);
  bind_nade(m);
  bind_wavenet(m);
}
