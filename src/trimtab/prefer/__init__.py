"""People judge: a page that shows two answers and keeps what is said of them."""
