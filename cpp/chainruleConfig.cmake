# find_package(chainrule) in an installed wheel; `python -m chainrule --cmakedir` is its chainrule_DIR.
#   chainrule::chainrule   links libchainrule and finds its header
#   chainrule::headers     the header alone, for Cython modules that cimport chainrule.cykernels
get_filename_component(_root "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
if(NOT TARGET chainrule::chainrule)
  add_library(chainrule::headers INTERFACE IMPORTED)
  set_target_properties(chainrule::headers PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_root}/include")
  file(GLOB _library "${_root}/lib/libchainrule.*" "${_root}/lib/chainrule.dll")
  add_library(chainrule::chainrule SHARED IMPORTED)
  set_target_properties(chainrule::chainrule PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_root}/include"
    IMPORTED_LOCATION "${_library}")
  if(WIN32)
    set_target_properties(chainrule::chainrule PROPERTIES IMPORTED_IMPLIB "${_root}/lib/chainrule.lib")
  endif()
endif()
unset(_root)
unset(_library)
