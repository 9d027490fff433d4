build-san/obj/qmp/address.o: qmp/address.cpp qmp/client.hpp \
 qmp/failure.hpp
qmp/client.hpp:
qmp/failure.hpp:
