"""Who holds what of the device's memory, in numbers: nothing in here knows a tensor."""
