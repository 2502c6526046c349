"""One idea a module: public functions of a model and its inputs, frozen results, their figures."""
