# The Cython door: hands out the dispatched table of kernels.
cdef extern from "chainrule/chainrule.h" nogil:
    const int CHAINRULE_ABI_VERSION
    const chainrule_api *chainrule_get_api(uint32_t abi_version)
    const char *chainrule_load_error()

cdef const chainrule_api *_table = chainrule_get_api(CHAINRULE_ABI_VERSION)
if _table == NULL:
    raise ImportError(chainrule_load_error().decode())


cdef const chainrule_api *api() noexcept nogil:
    return _table
